"""Makes the completions for bash, zsh and fish from the command lines' own parsers.

    /usr/bin/python3 packaging/completion/make.py [DIR]      (DIR: where to write; by default beside this file)

The argparse parsers of netpold and netpoldctl, which are made from tables themselves, become one `Program` each: what
every option and argument takes, told by its metavar.  Then each shell has one function that writes it down.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from netpold.ctl import main as ctl  # noqa: E402
from netpold.daemon import main as daemon  # noqa: E402

Name = Literal["pods", "pods,", "policies", "namespaces", "namespaces,", "nodes", "subjects"]
Kind = Literal[Name, "choice", "directory", "file", "manifests", "port", "ports", "side", "word"]

# What is to be completed, by metavar.  `word`: nothing that a shell could know; `side`: files, or `node`; a Name: what
# the daemon knows (netpold/ctl/complete.py).
KINDS: dict[str, Kind] = {
    "A,...": "word",
    "DIR": "directory",
    "DIR...": "manifests",  # files, too
    "DST": "pods",
    "FILE": "file",
    "FILE...": "manifests",
    "NAME": "word",
    "NEW": "side",
    "NODE": "nodes",
    "OLD": "side",
    "NAME,...": "namespaces,",
    "PATTERN,...": "pods,",
    "PATH": "file",
    "PORT/PROTO": "port",
    "PORT/PROTO,...": "ports",
    "NAMESPACE[/POD]": "subjects",
    "POD": "pods",
    "POLICY": "policies",
    "N": "word",
    "TIME": "word",
    "S": "word",
    "SRC": "pods",
}

NAMES: tuple[Name, ...] = get_args(Name)


@dataclass(frozen=True, slots=True)
class Value:
    """What an option or an argument takes.  `many`: there may be any number of them."""

    kind: Kind
    metavar: str
    choices: tuple[str, ...] = ()
    many: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    names: tuple[str, ...]
    help: str
    value: Value | None
    ends: bool  # it is the only one on its line, as --help is


@dataclass(frozen=True, slots=True)
class Command:
    """A verb; or what stands before the verb, with no name."""

    name: str
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    top: Command
    verbs: tuple[Command, ...]

    @property
    def options(self) -> dict[tuple[str, ...], Value | None]:
        """All options, each once: one of a name takes a value with every verb or with none, though not always the same
        one."""
        return {option.names: option.value for command in (self.top, *self.verbs) for option in command.options}


def program(parser: argparse.ArgumentParser) -> Program:
    """What a parser takes."""
    verbs: tuple[Command, ...] = ()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help or "" for each in action._choices_actions}
            verbs = tuple([_command(name, helps[name], each) for name, each in action.choices.items()])
    return Program(parser.prog, _command("", "", parser), verbs)


def _command(name: str, summary: str, parser: argparse.ArgumentParser) -> Command:
    options, arguments = [], []
    for action in parser._actions:
        if action.option_strings:
            options.append(
                Option(
                    tuple(action.option_strings),
                    _short(action.help or ""),
                    None if action.nargs == 0 else _value(action),
                    isinstance(action, argparse._HelpAction | argparse._VersionAction),
                )
            )
        elif not isinstance(action, argparse._SubParsersAction):
            arguments.append(_value(action))
    return Command(name, summary, tuple(options), tuple(arguments))


def _value(action: argparse.Action) -> Value:
    if action.choices:
        return Value("choice", action.dest, tuple(action.choices))
    many = action.nargs == "+"
    metavar = str(action.metavar)
    if metavar == "NAME" and "--namespace" in action.option_strings:
        return Value("namespaces", metavar)
    return Value(KINDS[f"{metavar}..." if many else metavar], metavar, many=many)


def _short(text: str) -> str:
    """The first sentence of a help text, without its full stop."""
    return text.partition(".  ")[0].removesuffix(".").replace("%%", "%")


def _heading(shell: str, name: str) -> str:
    return f"# {shell} completion for {name}(8), made by packaging/completion/make.py: change that, and run it.\n"


# bash ----------------------------------------------------------------------------------------------------------------

_BASH_PORTS = """
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
"""


_BASH_NAMES = """
# Names that the daemon knows, of a kind; with a comma behind that, several with commas between them.
_netpoldctl_names() {
    COMPREPLY=($(netpoldctl complete "$1" "$cur" "${words[@]}" 2>/dev/null))
    [[ ${COMPREPLY[0]} != */ && $1 != *, ]] || compopt -o nospace
}
"""


def bash(program: Program) -> str:
    """For bash-completion 2.11 and later."""
    name = program.name
    lines = [_heading("bash", name), f"_{name}() {{"]
    lines += ["    local cur prev words cword split", "    _init_completion -s || return", ""]
    prev = "$verb:$prev" if program.verbs else "$prev"
    options = [f"    case {prev} in", *_bash_options(program), "    esac", "    $split && return", ""]
    if program.verbs:
        lines += ["    local verb='' arguments=0 index", "    for ((index = 1; index < cword; index++)); do"]
        lines += ["        case ${words[index]} in", f"            {' | '.join(_with_value(program))}) ((index++)) ;;"]
        lines += ["            -*) ;;", "            *) [[ -z $verb ]] && verb=${words[index]} || ((arguments++)) ;;"]
        lines += ["        esac", "    done", "", *options]
        lines += ["    case $verb:$arguments:$cur in"]
        for command in (program.top, *program.verbs):
            lines += _bash_case(f"{command.name}:*:-*", _bash_words(_names(command)))
            for at, value in enumerate(command.arguments):
                if body := _bash_value(value):
                    lines += _bash_case(f"{command.name}:{'*' if value.many else at}:*", body)
        lines += [*_bash_case(":0:*", _bash_words([verb.name for verb in program.verbs])), "    esac"]
    else:
        lines += [*options, f"    {_bash_words(_names(program.top))}"]
    lines.append(f"}} && complete -F _{name} {name}")
    return "\n".join(lines) + "\n" + (_BASH_PORTS + _BASH_NAMES if _has_ports(program) else "")


def _bash_options(program: Program) -> list[str]:
    """The cases for options' values, those together that take the same; where there are verbs, of `verb:option`: first
    what an option takes with few of them, then what it takes with any other."""
    found: dict[str, dict[str, list[str]]] = {}  # by option and what it takes, the verbs
    for command in (program.top, *program.verbs):
        for option in command.options:
            for name in option.names:
                if option.value:
                    found.setdefault(name, {}).setdefault(_bash_value(option.value), []).append(command.name)
    few: dict[str, list[str]] = {}
    most: dict[str, list[str]] = {}
    for name, values in found.items():
        *some, last = sorted(values, key=lambda body: len(values[body]))
        most.setdefault(last, []).append(f"*:{name}" if program.verbs else name)
        for body in some:
            few.setdefault(body, []).extend(f"{verb}:{name}" for verb in values[body])
    cases = [*few.items(), *most.items()]
    return [line for body, patterns in cases for line in _bash_case(" | ".join(patterns), body, "return")]


def _bash_case(pattern: str, *body: str) -> list[str]:
    return [f"        {pattern})", *[f"            {line}" for line in body if line], "            ;;"]


def _bash_value(value: Value) -> str:
    calls: dict[Kind, str] = {
        "choice": _bash_words(value.choices),
        "directory": "_filedir -d",
        "file": "_filedir",
        "manifests": "_filedir '@(yaml|yml|json)'",
        "port": "_netpoldctl_ports",
        "ports": "_netpoldctl_ports list",
        "side": '_filedir; COMPREPLY+=($(compgen -W node -- "$cur"))',
        **{kind: f"_netpoldctl_names {kind}" for kind in NAMES},
    }
    return calls.get(value.kind, "")


def _bash_words(words: Iterable[str]) -> str:
    return f"COMPREPLY=($(compgen -W '{' '.join(words)}' -- \"$cur\"))"


# zsh -----------------------------------------------------------------------------------------------------------------

_ZSH_PORTS = """
# Ports as they are written for netpoldctl; with `list` as the last argument, several with commas between them.
_netpoldctl_ports() {
    local -a ports=(ICMP 53/UDP 80/TCP 443/TCP) suffix
    if [[ $@[-1] == list ]]; then
        compset -P '*,'
        suffix=(-qS ,)
    fi
    if [[ $PREFIX == (#b)([0-9]##)* ]]; then
        ports=($match[1]/{TCP,UDP,SCTP})
    fi
    compadd "$@[1,-2]" $suffix -a ports
}
"""


_ZSH_NAMES = """
# Names that the daemon knows, of the kind that the last argument says; with a comma behind that, several with commas
# between them.
_netpoldctl_names() {
    local -a names=(${(f)"$(netpoldctl complete $@[-1] "$PREFIX" ${(Q)${(z)LBUFFER}} 2>/dev/null)"}) suffix
    if [[ $@[-1] == *, ]]; then
        compset -P '*,'
        names=(${names##*,}) suffix=(-qS ,)
    fi
    compadd "$@[1,-2]" -S '' -- ${(M)names:#*/}
    compadd "$@[1,-2]" $suffix -- ${names:#*/}
}
"""


def zsh(program: Program) -> str:
    name = program.name
    lines = [f"#compdef {name}", _heading("zsh", name)]
    if _has_ports(program):
        lines += [_ZSH_PORTS.strip(), "", _ZSH_NAMES.strip(), ""]
    lines += [f"_{name}() {{"]
    if program.verbs:
        lines += ["    local context curcontext=$curcontext state state_descr line", "    typeset -A opt_args", ""]
        lines += _zsh_arguments(program.top, "    ", ("1:command:->command", "*::argument:->argument"))
        lines += ["", "    case $state in", "        command)", "            local -a commands=("]
        lines += [f"                {_quoted(f'{verb.name}:{verb.help}')}" for verb in program.verbs]
        lines += ["            )", "            _describe command commands", "            ;;"]
        lines += ["        argument)", "            case $words[1] in"]
        for verb in program.verbs:
            lines += [f"                {verb.name})", *_zsh_arguments(verb, " " * 20), "                    ;;"]
        lines += ["            esac", "            ;;", "    esac"]
    else:
        lines += _zsh_arguments(program.top, "    ")
    lines += ["}", "", f'_{name} "$@"']
    return "\n".join(lines) + "\n"


def _zsh_arguments(command: Command, margin: str, more: tuple[str, ...] = ()) -> list[str]:
    specs = [spec for option in command.options for spec in _zsh_option(option)]
    for at, value in enumerate(command.arguments, 1):
        specs.append(f"{'*' if value.many else at}:{_zsh_value(value)}")
    call = "_arguments -C" if more else "_arguments"
    parts = [f"{margin}{call}", *[f"{margin}    {_quoted(spec)}" for spec in (*specs, *more)]]
    return [f"{part} \\" for part in parts[:-1]] + parts[-1:]


def _zsh_option(option: Option) -> Iterator[str]:
    """One spec for each name; a name excludes the others."""
    excluded = "- *" if option.ends else " ".join(option.names) if len(option.names) > 1 else ""
    text = option.help.replace("[", r"\[").replace("]", r"\]")
    for name in option.names:
        takes = ("=" if name.startswith("--") else "+") if option.value else ""
        value = f":{_zsh_value(option.value)}" if option.value else ""
        yield f"{f'({excluded})' if excluded else ''}{name}{takes}[{text}]{value}"


def _zsh_value(value: Value) -> str:
    calls: dict[Kind, str] = {
        "choice": f"({' '.join(value.choices)})",
        "directory": "_files -/",
        "file": "_files",
        "manifests": '_files -g "*.(yaml|yml|json)(-.)"',
        "port": "_netpoldctl_ports one",
        "ports": "_netpoldctl_ports list",
        "side": "{_files; compadd node}",
        "word": "",
        **{kind: f"_netpoldctl_names {kind}" for kind in NAMES},
    }
    return f"{value.metavar.lower()}:{calls[value.kind]}"


# fish ----------------------------------------------------------------------------------------------------------------

_FISH_VERB = """
# Whether the word to complete comes after the verb $argv[1] ('': before any verb); with a number $argv[2], whether it
# is the argument of that number, from 1.
function __netpoldctl_after
    set -l plain
    set -l words (commandline -opc)
    while set --query words[2]
        set --erase words[1] # the program's name, and then what was looked at
        if contains -- $words[1] {with_value}
            set --erase words[1]
        else if not string match --quiet -- '-*' $words[1]
            set --append plain $words[1]
        end
    end
    test "$plain[1]" = "$argv[1]"
    and test (count $argv) = 1 -o (count $plain) = "$argv[2]"
end
"""
_FISH_PORTS = """
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
        printf '%s\\n' "$before$number"/{TCP,UDP,SCTP}
    else
        printf '%s\\n' "$before"{ICMP,53/UDP,80/TCP,443/TCP}
    end
end
"""


_FISH_NAMES = """
# Names that the daemon knows, of a kind; with a comma behind that, several with commas between them.
function __netpoldctl_names
    command --query netpoldctl; or return
    set -l word (string replace --regex -- '^--[a-z-]+=' '' (commandline -ct))
    netpoldctl complete $argv[1] "$word" (commandline -opc) 2>/dev/null
end
"""


def fish(program: Program) -> str:
    name = program.name
    lines = [_heading("fish", name).rstrip()]
    if program.verbs:
        lines.append(_FISH_VERB.replace("{with_value}", " ".join(_with_value(program))).rstrip())
    if _has_ports(program):
        lines += [_FISH_PORTS.rstrip(), _FISH_NAMES.rstrip()]
    lines += ["", f"complete -c {name} -f"]
    for verb in program.verbs:
        lines.append(f"complete -c {name} -n {_fish_after('')} -a {verb.name} -d {_quoted(verb.help)}")
    for command in (program.top, *program.verbs):
        when = f" -n {_fish_after(command.name)}" if program.verbs else ""
        lines += ["", *(f"complete -c {name}{when}{_fish_option(option)}" for option in command.options)]
        for at, value in enumerate(command.arguments, 1):
            if takes := _fish_value(value):
                lines.append(f"complete -c {name} -n {_fish_after(command.name, 0 if value.many else at)}{takes}")
    return "\n".join(lines) + "\n"


def _fish_after(verb: str, number: int = 0) -> str:
    return _quoted(f"__netpoldctl_after {verb or chr(34) * 2}{f' {number}' if number else ''}")


def _fish_option(option: Option) -> str:
    names = "".join(f" -l {each[2:]}" if each.startswith("--") else f" -s {each[1:]}" for each in option.names)
    takes = ""
    if option.value:
        takes = " -r" + (_fish_value(option.value) or " -f")
    return f"{names}{takes} -d {_quoted(option.help)}"


def _fish_value(value: Value) -> str:
    calls: dict[Kind, str] = {
        "choice": f" -f -a {_quoted(' '.join(value.choices))}",
        "directory": " -f -a '(__fish_complete_directories)'",
        "file": " -F",
        "manifests": " -F",
        "port": " -f -a '(__netpoldctl_ports)'",
        "ports": " -f -a '(__netpoldctl_ports list)'",
        "side": " -F -a node",
        **{kind: f" -f -a '(__netpoldctl_names {kind})'" for kind in NAMES},
    }
    return calls.get(value.kind, "")


# All -----------------------------------------------------------------------------------------------------------------


def _names(command: Command) -> list[str]:
    return [name for option in command.options for name in option.names]


def _with_value(program: Program) -> list[str]:
    return [name for names, value in program.options.items() if value for name in names]


def _has_ports(program: Program) -> bool:
    arguments = [value for verb in program.verbs for value in verb.arguments]
    return any(value.kind in ("port", "ports") for value in (*arguments, *program.options.values()) if value)


def _quoted(text: str) -> str:
    """Between single quotes.  fish takes the same, as long as there is no backslash."""
    return "'" + text.replace("'", "'\\''") + "'"


def files() -> dict[str, str]:
    """All completions, by file name."""
    made: dict[str, str] = {}
    for each in (program(daemon.parser()), program(ctl.parser())):
        made |= {f"{each.name}.bash": bash(each), f"_{each.name}": zsh(each), f"{each.name}.fish": fish(each)}
    return made


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for file, text in files().items():
        (target / file).write_text(text)
