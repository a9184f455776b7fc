# fish completion for netpoldctl(8), made by packaging/completion/make.py: change that, and run it.

# Whether the word to complete comes after the verb $argv[1] ('': before any verb); with a number $argv[2], whether it
# is the argument of that number, from 1.
function __netpoldctl_after
    set -l plain
    set -l words (commandline -opc)
    while set --query words[2]
        set --erase words[1] # the program's name, and then what was looked at
        if contains -- $words[1] --socket --manifests -o --output --timeout --for --ports --namespace --pods --node --addresses --inventory --fail-on --from --pod --direction --port --since --by -n --interval
            set --erase words[1]
        else if not string match --quiet -- '-*' $words[1]
            set --append plain $words[1]
        end
    end
    test "$plain[1]" = "$argv[1]"
    and test (count $argv) = 1 -o (count $plain) = "$argv[2]"
end

# Ports as they are written for netpoldctl; with `list`, several with commas between them.
function __netpoldctl_ports
    set -l word (commandline -ct)
    set -l before ''
    if test "$argv[1]" = list
        set before (string match --regex -- '^(?:--ports=)?(.*,)' $word)[2]
        set word (string replace --regex -- '^(--ports=)?(.*,)?' '' $word)
    end
    set -l number (string match --regex -- '^[0-9]+' $word)
    if test -n "$number"
        printf '%s\n' "$before$number"/{TCP,UDP,SCTP}
    else
        printf '%s\n' "$before"{ICMP,53/UDP,80/TCP,443/TCP}
    end
end

# Names that the daemon knows, of a kind; with a comma behind that, several with commas between them.
function __netpoldctl_names
    command --query netpoldctl; or return
    set -l word (string replace --regex -- '^--[a-z-]+=' '' (commandline -ct))
    netpoldctl complete $argv[1] "$word" (commandline -opc) 2>/dev/null
end

complete -c netpoldctl -f
complete -c netpoldctl -n '__netpoldctl_after ""' -a status -d 'what the daemon enforces, and what it found wrong'
complete -c netpoldctl -n '__netpoldctl_after ""' -a wait -d 'wait until everything that is on disk now is enforced or rejected'
complete -c netpoldctl -n '__netpoldctl_after ""' -a flush -d 'take all rules and sets out of the kernel, so that nothing is enforced'
complete -c netpoldctl -n '__netpoldctl_after ""' -a check -d 'what is wrong in manifests'
complete -c netpoldctl -n '__netpoldctl_after ""' -a explain -d 'whether one end reaches another, and which policy rule says so'
complete -c netpoldctl -n '__netpoldctl_after ""' -a matrix -d 'who reaches whom'
complete -c netpoldctl -n '__netpoldctl_after ""' -a diff -d 'who reaches whom otherwise when manifests change, and because of which policy'
complete -c netpoldctl -n '__netpoldctl_after ""' -a plan -d 'the kernel'\''s steps from what is in force to what manifests say'
complete -c netpoldctl -n '__netpoldctl_after ""' -a test -d 'whether policies do what test files expect of them'
complete -c netpoldctl -n '__netpoldctl_after ""' -a monitor -d 'what is dropped, as it happens, and why'
complete -c netpoldctl -n '__netpoldctl_after ""' -a audit -d 'what policies in audit mode would drop, and what would allow it'
complete -c netpoldctl -n '__netpoldctl_after ""' -a suggest -d 'policies that allow the traffic that was seen'
complete -c netpoldctl -n '__netpoldctl_after ""' -a pod -d 'everything about one pod'
complete -c netpoldctl -n '__netpoldctl_after ""' -a policy -d 'everything about one policy'
complete -c netpoldctl -n '__netpoldctl_after ""' -a top -d 'packets and bytes by policy rule, by policy or by pod, as they come'
complete -c netpoldctl -n '__netpoldctl_after ""' -a verify -d 'the kernel against what should be in it, chain by chain and set by set'
complete -c netpoldctl -n '__netpoldctl_after ""' -a try -d 'have other policies in force for a while'
complete -c netpoldctl -n '__netpoldctl_after ""' -a rollback -d 'go back to the policies that were in force before'
complete -c netpoldctl -n '__netpoldctl_after ""' -a support-bundle -d 'what is needed to find a fault, in one archive'
complete -c netpoldctl -n '__netpoldctl_after ""' -a render -d 'the ruleset that manifests make'

complete -c netpoldctl -n '__netpoldctl_after ""' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after ""' -l version -d 'show program'\''s version number and exit'
complete -c netpoldctl -n '__netpoldctl_after ""' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after ""' -l manifests -r -f -a '(__fish_complete_directories)' -d 'directory of manifests (default: that of the settings)'

complete -c netpoldctl -n '__netpoldctl_after status' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after status' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after status' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after status' -l watch -d 'go on, and show every change'

complete -c netpoldctl -n '__netpoldctl_after wait' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after wait' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after wait' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after wait' -l timeout -r -f -d 'give up after S seconds (default: 30)'

complete -c netpoldctl -n '__netpoldctl_after flush' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after flush' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after flush' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'

complete -c netpoldctl -n '__netpoldctl_after check' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after check' -s o -l output -r -f -a 'text json sarif junit' -d 'text for a person, JSON, SARIF 2.1.0 or JUnit XML (default: text)'
complete -c netpoldctl -n '__netpoldctl_after check' -l strict -d 'exit with 1 for warnings, too'
complete -c netpoldctl -n '__netpoldctl_after check' -F

complete -c netpoldctl -n '__netpoldctl_after explain' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after explain' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after explain' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after explain' -l manifests -r -f -a '(__fish_complete_directories)' -d 'directory of manifests (default: that of the settings)'
complete -c netpoldctl -n '__netpoldctl_after explain' -l live -d 'wait for such a packet, and tell its way through the kernel'
complete -c netpoldctl -n '__netpoldctl_after explain' -l for -r -f -d 'with --live, so long (default: 30s)'
complete -c netpoldctl -n '__netpoldctl_after explain 1' -f -a '(__netpoldctl_names pods)'
complete -c netpoldctl -n '__netpoldctl_after explain 2' -f -a '(__netpoldctl_names pods)'
complete -c netpoldctl -n '__netpoldctl_after explain 3' -f -a '(__netpoldctl_ports)'

complete -c netpoldctl -n '__netpoldctl_after matrix' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after matrix' -s o -l output -r -f -a 'text json csv markdown dot svg html' -d 'text for a person, JSON, CSV, Markdown, Graphviz, SVG or HTML (default: text)'
complete -c netpoldctl -n '__netpoldctl_after matrix' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after matrix' -l manifests -r -f -a '(__fish_complete_directories)' -d 'directory of manifests (default: that of the settings)'
complete -c netpoldctl -n '__netpoldctl_after matrix' -l ports -r -f -a '(__netpoldctl_ports list)' -d '80/TCP,53/UDP,ICMP (default: the 12 that pods and policies name most)'
complete -c netpoldctl -n '__netpoldctl_after matrix' -l namespace -r -f -a '(__netpoldctl_names namespaces,)' -d 'pods of these namespaces only'
complete -c netpoldctl -n '__netpoldctl_after matrix' -l pods -r -f -a '(__netpoldctl_names pods,)' -d 'pods like these only: shop/web, '\''shop/*'\'', '\''*/db-*'\'''
complete -c netpoldctl -n '__netpoldctl_after matrix' -l node -r -f -a '(__netpoldctl_names nodes)' -d 'pods of this node only'
complete -c netpoldctl -n '__netpoldctl_after matrix' -l addresses -r -f -d 'addresses outside of the cluster to ask about'

complete -c netpoldctl -n '__netpoldctl_after diff' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after diff' -s o -l output -r -f -a 'text json markdown' -d 'text for a person, JSON or Markdown (default: text)'
complete -c netpoldctl -n '__netpoldctl_after diff' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after diff' -l inventory -r -f -a '(__fish_complete_directories)' -d 'more manifests, of pods for one, that count on both sides'
complete -c netpoldctl -n '__netpoldctl_after diff' -l fail-on -r -f -a 'open any never' -d 'exit with 1 when something opens, or when anything changes (default: never)'
complete -c netpoldctl -n '__netpoldctl_after diff 1' -F -a node
complete -c netpoldctl -n '__netpoldctl_after diff 2' -F -a node

complete -c netpoldctl -n '__netpoldctl_after plan' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after plan' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after plan' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after plan' -l inventory -r -f -a '(__fish_complete_directories)' -d 'more manifests, of pods for one, that count on both sides'
complete -c netpoldctl -n '__netpoldctl_after plan' -l from -r -F -a node -d 'from there: a directory, git:REV, git:REV:PATH or node (default: node)'
complete -c netpoldctl -n '__netpoldctl_after plan' -l node -r -f -a '(__netpoldctl_names nodes)' -d 'for the pods of this node (default: the daemon'\''s; all pods, where none is asked)'
complete -c netpoldctl -n '__netpoldctl_after plan 1' -F -a node

complete -c netpoldctl -n '__netpoldctl_after test' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after test' -s o -l output -r -f -a 'text json junit' -d 'text for a person, JSON or JUnit XML (default: text)'
complete -c netpoldctl -n '__netpoldctl_after test' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after test' -l manifests -r -f -a '(__fish_complete_directories)' -d 'directory of manifests (default: that of the settings)'
complete -c netpoldctl -n '__netpoldctl_after test' -l live -d 'test what the running daemon has in force'
complete -c netpoldctl -n '__netpoldctl_after test' -F

complete -c netpoldctl -n '__netpoldctl_after monitor' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after monitor' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after monitor' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after monitor' -l follow -d 'go on until interrupted (default on a terminal)'
complete -c netpoldctl -n '__netpoldctl_after monitor' -l for -r -f -d 'go on for that long: 90s, 15m, 2h'
complete -c netpoldctl -n '__netpoldctl_after monitor' -l allowed -d 'first packets that are allowed, too'
complete -c netpoldctl -n '__netpoldctl_after monitor' -l pod -r -f -a '(__netpoldctl_names pods)' -d 'from or to this pod (namespace/name) or address only'
complete -c netpoldctl -n '__netpoldctl_after monitor' -l namespace -r -f -a '(__netpoldctl_names namespaces)' -d 'from or to pods of this namespace only'
complete -c netpoldctl -n '__netpoldctl_after monitor' -l direction -r -f -a 'ingress egress' -d 'judged in this direction only'
complete -c netpoldctl -n '__netpoldctl_after monitor' -l port -r -f -a '(__netpoldctl_ports)' -d 'to this port only: 80/TCP'

complete -c netpoldctl -n '__netpoldctl_after audit' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after audit' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after audit' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after audit' -l since -r -f -d 'seen within 15m, 2h, 1d (default: since the daemon'\''s start)'

complete -c netpoldctl -n '__netpoldctl_after suggest' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after suggest' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after suggest' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after suggest' -l direction -r -f -a 'ingress egress' -d 'for this direction only (default: both)'
complete -c netpoldctl -n '__netpoldctl_after suggest' -l without-drops -d 'leave out what policies drop now'
complete -c netpoldctl -n '__netpoldctl_after suggest 1' -f -a '(__netpoldctl_names subjects)'

complete -c netpoldctl -n '__netpoldctl_after pod' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after pod' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after pod' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after pod 1' -f -a '(__netpoldctl_names pods)'

complete -c netpoldctl -n '__netpoldctl_after policy' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after policy' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after policy' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after policy 1' -f -a '(__netpoldctl_names policies)'

complete -c netpoldctl -n '__netpoldctl_after top' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after top' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after top' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after top' -l by -r -f -a 'rule policy pod' -d 'what a row is of (default: rule)'
complete -c netpoldctl -n '__netpoldctl_after top' -s n -r -f -d 'show so many rows (default: as many as fit; in JSON all)'
complete -c netpoldctl -n '__netpoldctl_after top' -l interval -r -f -d 'seconds from reading to reading (default: 2)'
complete -c netpoldctl -n '__netpoldctl_after top' -l once -d 'two readings, and end (default for text without a terminal)'

complete -c netpoldctl -n '__netpoldctl_after verify' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after verify' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after verify' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'

complete -c netpoldctl -n '__netpoldctl_after try' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after try' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after try' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after try' -l for -r -f -d 'from 1s to 1h (default: 60s)'
complete -c netpoldctl -n '__netpoldctl_after try' -l confirm -d 'keep what is tried when its time is over'
complete -c netpoldctl -n '__netpoldctl_after try' -l end -d 'go back to the manifests now'
complete -c netpoldctl -n '__netpoldctl_after try 1' -f -a '(__fish_complete_directories)'

complete -c netpoldctl -n '__netpoldctl_after rollback' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after rollback' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after rollback' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after rollback' -l end -d 'have what the manifests say in force again'

complete -c netpoldctl -n '__netpoldctl_after support-bundle' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after support-bundle' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after support-bundle' -l socket -r -F -d 'the daemon'\''s socket (default: /run/netpold/netpold.sock)'
complete -c netpoldctl -n '__netpoldctl_after support-bundle' -l with-manifests -d 'add the manifests in force, as netpold reads them'
complete -c netpoldctl -n '__netpoldctl_after support-bundle 1' -F

complete -c netpoldctl -n '__netpoldctl_after render' -s h -l help -d 'show this help message and exit'
complete -c netpoldctl -n '__netpoldctl_after render' -s o -l output -r -f -a 'text json' -d 'text for a person, or JSON (default: text)'
complete -c netpoldctl -n '__netpoldctl_after render' -l manifests -r -f -a '(__fish_complete_directories)' -d 'directory of manifests (default: that of the settings)'
complete -c netpoldctl -n '__netpoldctl_after render' -l node -r -f -a '(__netpoldctl_names nodes)' -d 'for the pods of this node (default: all pods)'
