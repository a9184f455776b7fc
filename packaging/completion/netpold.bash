# bash completion for netpold(8), made by packaging/completion/make.py: change that, and run it.

_netpold() {
    local cur prev words cword split
    _init_completion -s || return

    case $prev in
        --manifests | --state-dir | --runtime-dir)
            _filedir -d
            return
            ;;
        --node)
            return
            ;;
        --backend)
            COMPREPLY=($(compgen -W 'auto nft legacy' -- "$cur"))
            return
            ;;
        --config)
            _filedir
            return
            ;;
    esac
    $split && return

    COMPREPLY=($(compgen -W '-h --help --version --check-settings --manifests --state-dir --runtime-dir --node --backend --config' -- "$cur"))
} && complete -F _netpold netpold
