# bash completion for netpoldctl(8), made by packaging/completion/make.py: change that, and run it.

_netpoldctl() {
    local cur prev words cword split
    _init_completion -s || return

    local verb='' arguments=0 index
    for ((index = 1; index < cword; index++)); do
        case ${words[index]} in
            --socket | --manifests | -o | --output | --timeout | --for | --ports | --namespace | --pods | --node | --addresses | --inventory | --fail-on | --from | --pod | --direction | --port | --since | --by | -n | --interval) ((index++)) ;;
            -*) ;;
            *) [[ -z $verb ]] && verb=${words[index]} || ((arguments++)) ;;
        esac
    done

    case $verb:$prev in
        check:-o | check:--output)
            COMPREPLY=($(compgen -W 'text json sarif junit' -- "$cur"))
            return
            ;;
        matrix:-o | matrix:--output)
            COMPREPLY=($(compgen -W 'text json csv markdown dot svg html' -- "$cur"))
            return
            ;;
        diff:-o | diff:--output)
            COMPREPLY=($(compgen -W 'text json markdown' -- "$cur"))
            return
            ;;
        test:-o | test:--output)
            COMPREPLY=($(compgen -W 'text json junit' -- "$cur"))
            return
            ;;
        matrix:--namespace)
            _netpoldctl_names namespaces,
            return
            ;;
        *:--socket)
            _filedir
            return
            ;;
        *:--manifests | *:--inventory)
            _filedir -d
            return
            ;;
        *:-o | *:--output)
            COMPREPLY=($(compgen -W 'text json' -- "$cur"))
            return
            ;;
        *:--timeout | *:--for | *:--addresses | *:--since | *:-n | *:--interval)
            return
            ;;
        *:--ports)
            _netpoldctl_ports list
            return
            ;;
        *:--namespace)
            _netpoldctl_names namespaces
            return
            ;;
        *:--pods)
            _netpoldctl_names pods,
            return
            ;;
        *:--node)
            _netpoldctl_names nodes
            return
            ;;
        *:--fail-on)
            COMPREPLY=($(compgen -W 'open any never' -- "$cur"))
            return
            ;;
        *:--from)
            _filedir; COMPREPLY+=($(compgen -W node -- "$cur"))
            return
            ;;
        *:--pod)
            _netpoldctl_names pods
            return
            ;;
        *:--direction)
            COMPREPLY=($(compgen -W 'ingress egress' -- "$cur"))
            return
            ;;
        *:--port)
            _netpoldctl_ports
            return
            ;;
        *:--by)
            COMPREPLY=($(compgen -W 'rule policy pod' -- "$cur"))
            return
            ;;
    esac
    $split && return

    case $verb:$arguments:$cur in
        :*:-*)
            COMPREPLY=($(compgen -W '-h --help --version --socket --manifests' -- "$cur"))
            ;;
        status:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --watch' -- "$cur"))
            ;;
        wait:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --timeout' -- "$cur"))
            ;;
        flush:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket' -- "$cur"))
            ;;
        check:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --strict' -- "$cur"))
            ;;
        check:*:*)
            _filedir '@(yaml|yml|json)'
            ;;
        explain:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --manifests --live --for' -- "$cur"))
            ;;
        explain:0:*)
            _netpoldctl_names pods
            ;;
        explain:1:*)
            _netpoldctl_names pods
            ;;
        explain:2:*)
            _netpoldctl_ports
            ;;
        matrix:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --manifests --ports --namespace --pods --node --addresses' -- "$cur"))
            ;;
        diff:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --inventory --fail-on' -- "$cur"))
            ;;
        diff:0:*)
            _filedir; COMPREPLY+=($(compgen -W node -- "$cur"))
            ;;
        diff:1:*)
            _filedir; COMPREPLY+=($(compgen -W node -- "$cur"))
            ;;
        plan:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --inventory --from --node' -- "$cur"))
            ;;
        plan:0:*)
            _filedir; COMPREPLY+=($(compgen -W node -- "$cur"))
            ;;
        test:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --manifests --live' -- "$cur"))
            ;;
        test:*:*)
            _filedir '@(yaml|yml|json)'
            ;;
        monitor:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --follow --for --allowed --pod --namespace --direction --port' -- "$cur"))
            ;;
        audit:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --since' -- "$cur"))
            ;;
        suggest:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --direction --without-drops' -- "$cur"))
            ;;
        suggest:0:*)
            _netpoldctl_names subjects
            ;;
        pod:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket' -- "$cur"))
            ;;
        pod:0:*)
            _netpoldctl_names pods
            ;;
        policy:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket' -- "$cur"))
            ;;
        policy:0:*)
            _netpoldctl_names policies
            ;;
        top:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --by -n --interval --once' -- "$cur"))
            ;;
        verify:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket' -- "$cur"))
            ;;
        try:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --for --confirm --end' -- "$cur"))
            ;;
        try:0:*)
            _filedir -d
            ;;
        rollback:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --end' -- "$cur"))
            ;;
        support-bundle:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --socket --with-manifests' -- "$cur"))
            ;;
        support-bundle:0:*)
            _filedir
            ;;
        render:*:-*)
            COMPREPLY=($(compgen -W '-h --help -o --output --manifests --node' -- "$cur"))
            ;;
        :0:*)
            COMPREPLY=($(compgen -W 'status wait flush check explain matrix diff plan test monitor audit suggest pod policy top verify try rollback support-bundle render' -- "$cur"))
            ;;
    esac
} && complete -F _netpoldctl netpoldctl

# Ports as they are written for netpoldctl; with `list`, several with commas between them.
_netpoldctl_ports() {
    local before='' last=$cur
    if [[ $1 == list ]]; then
        compopt -o nospace
        if [[ $cur == *,* ]]; then
            before=${cur%,*},
            last=${cur##*,}
        fi
    fi
    local ports=(ICMP 53/UDP 80/TCP 443/TCP)
    if [[ $last =~ ^[0-9]+ ]]; then
        ports=("${BASH_REMATCH[0]}"/{TCP,UDP,SCTP})
    fi
    COMPREPLY=($(compgen -P "$before" -W "${ports[*]}" -- "$last"))
}

# Names that the daemon knows, of a kind; with a comma behind that, several with commas between them.
_netpoldctl_names() {
    COMPREPLY=($(netpoldctl complete "$1" "$cur" "${words[@]}" 2>/dev/null))
    [[ ${COMPREPLY[0]} != */ && $1 != *, ]] || compopt -o nospace
}
