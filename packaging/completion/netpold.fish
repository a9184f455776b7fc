# fish completion for netpold(8), made by packaging/completion/make.py: change that, and run it.

complete -c netpold -f

complete -c netpold -s h -l help -d 'show this help message and exit'
complete -c netpold -l version -d 'show program'\''s version number and exit'
complete -c netpold -l check-settings -d 'Say whether the settings can be used, and end'
complete -c netpold -l manifests -r -f -a '(__fish_complete_directories)' -d 'Directory of the manifests, read recursively'
complete -c netpold -l state-dir -r -f -a '(__fish_complete_directories)' -d 'Directory for what has to outlive a restart: the last good rules, and what the manifests said'
complete -c netpold -l runtime-dir -r -f -a '(__fish_complete_directories)' -d 'Directory for the control socket, netpold.sock'
complete -c netpold -l node -r -f -d 'Name of this node: pods with this spec.nodeName are its own'
complete -c netpold -l backend -r -f -a 'auto nft legacy' -d 'Which iptables the rules go to; auto takes the one that `iptables -V` names'
complete -c netpold -l config -r -F -d 'Settings file (default: /etc/netpold/netpold.toml)'
