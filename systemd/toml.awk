# What a settings file says of pod_interfaces, state_dir and backend, for the shell script `boot`: a reader of TOML 1.0
# for what stands before the first [table].  One line each, the last of a kind counts:
#
#     state_dir TEXT
#     backend TEXT
#     pod_interfaces          a new list; its items follow as
#     interface TEXT          with `?` for what no name has: control characters, an escape beyond ASCII, an item that is no text
#     unreadable KEY          its value is of another kind, or has such a character
#
# Of a file that is not TOML it tells what it read until then, and exits with 1.  `text` is what is left to be read.

{
    sub(/\r$/, "")
    text = text $0 "\n"
}

END {
    blank()
    while (text != "" && substr(text, 1, 1) != "[") {
        entry()
        blank()
    }
}

function cut(length_) {
    token = substr(text, 1, length_)
    text = substr(text, length_ + 1)
    return 1
}

function front(expected) {
    return substr(text, 1, length(expected)) == expected && cut(length(expected))
}

function must(condition) {
    if (!condition) exit 1
}

# Over white space, ends of lines and comments.
function blank() {
    while (match(text, /^([ \t\n]+|#[^\n]*)/)) cut(RLENGTH)
}

function spaces() {
    if (match(text, /^[ \t]+/)) cut(RLENGTH)
}

function entry(    name, kind) {
    name = pair()
    kind = value(0)
    spaces()
    if (match(text, /^#[^\n]*/)) cut(RLENGTH)
    must(front("\n"))
    if (name == "pod_interfaces" && kind == "list") {
        print name
        for (i = 1; i <= items; i++) {
            gsub(/[\001-\037\177]/, "?", item[i])
            print "interface " item[i]
        }
    } else if ((name == "state_dir" || name == "backend") && kind == "text" && found !~ /[\001-\037\177]/)
        print name " " found
    else if (name == "pod_interfaces" || name == "state_dir" || name == "backend")
        print "unreadable " name
}

# A key and the sign behind it.  A dotted key is none of those that are asked for.
function pair(    name) {
    name = key()
    spaces()
    while (front(".")) {
        spaces()
        key()
        spaces()
        name = ""
    }
    must(front("="))
    spaces()
    return name
}

function key() {
    if (text ~ /^["']/) return string()
    must(match(text, /^[A-Za-z0-9_-]+/))
    cut(RLENGTH)
    return token
}

# The kind of what stands there: a text, which is then in `found`; a list; something else.  At depth 0 the items of a
# list are then in `item`.
function value(depth) {
    if (text ~ /^["']/) {
        found = string()
        return "text"
    }
    if (front("[")) return list(depth)
    if (front("{")) return table(depth)
    must(match(text, /^[^][{},#\n"']+/))
    cut(RLENGTH)
    return "other"
}

function list(depth,    kind) {
    if (!depth) items = 0
    for (blank(); !front("]"); blank()) {
        kind = value(depth + 1)
        if (!depth) item[++items] = kind == "text" ? found : "?"
        blank()
        must(front(",") || substr(text, 1, 1) == "]")
    }
    return "list"
}

function table(depth) {
    for (blank(); !front("}"); blank()) {
        pair()
        value(depth + 1)
        blank()
        must(front(",") || substr(text, 1, 1) == "}")
    }
    return "other"
}

function string(    quote) {
    quote = substr(text, 1, 1)
    if (front(quote quote quote)) return long_string(quote)
    if (quote == "'") {
        must(match(text, /^'[^'\n]*'/))
        cut(RLENGTH)
        return substr(token, 2, length(token) - 2)
    }
    must(match(text, /^"([^"\\\n]|\\[^\n])*"/))
    cut(RLENGTH)
    return unescaped(substr(token, 2, length(token) - 2))
}

# Of more than one line.  One or two quotes may stand right before the three that end it.
function long_string(quote,    body) {
    front("\n")
    while (!front(quote quote quote)) {
        must(text != "")
        if (match(text, /^[^"'\\]+/)) cut(RLENGTH)
        else cut(quote == "\"" && text ~ /^\\/ ? 2 : 1)
        body = body token
    }
    if (front(quote)) body = body quote
    if (front(quote)) body = body quote
    return quote == "'" ? body : unescaped(body)
}

function unescaped(rest,    done, at, letter) {
    while (at = index(rest, "\\")) {
        done = done substr(rest, 1, at - 1)
        letter = substr(rest, at + 1, 1)
        rest = substr(rest, at + 2)
        if (letter ~ /["\\]/) done = done letter
        else if (letter ~ /[btnfr]/) done = done "\001"
        else if (letter ~ /[uU]/) {
            at = letter == "u" ? 4 : 8
            done = done character(substr(rest, 1, at))
            rest = substr(rest, at + 1)
        } else {
            rest = letter rest
            must(sub(/^[ \t]*\n[ \t\n]*/, "", rest)) # the end of the line is escaped
        }
    }
    return done rest
}

function character(digits,    number) {
    number = 0
    while (digits != "") {
        number = number * 16 + index("0123456789abcdef", tolower(substr(digits, 1, 1))) - 1
        digits = substr(digits, 2)
    }
    return number >= 32 && number < 127 ? sprintf("%c", number) : "\001"
}
