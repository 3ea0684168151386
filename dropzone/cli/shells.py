"""The scripts that make shells ask for completion. What is offered to them is in `completing`, and in the commands."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

VARIABLE = "_DROPZONE_COMPLETE"


class _Bash(BashComplete):
    """bash takes a colon for a word of its own: ``account:main`` is put together for us, and taken apart for it."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' words=() current=$COMP_CWORD before= index word completion
    for index in "${!COMP_WORDS[@]}"; do
        word=${COMP_WORDS[index]}
        if [[ $index -gt 1 && ( $word == : || $before == : ) ]]; then
            words[-1]+=$word
            if ((index <= COMP_CWORD)); then ((current--)); fi
        else
            words+=("$word")
        fi
        before=$word
    done
    word=${words[current]}
    COMPREPLY=()
    for completion in $(COMP_WORDS="${words[*]}" COMP_CWORD=$current %(complete_var)s=bash_complete "$1"); do
        case $completion in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            plain,*)
                completion=${completion#plain,}
                [[ $word == "${COMP_WORDS[COMP_CWORD]}" && $word != : ]] || completion=${completion#"${word%%:*}:"}
                COMPREPLY+=("$completion")
                ;;
        esac
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Fish(FishComplete):
    """What follows the first comma is the word and what is said of it, which may have commas too."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')


_KINDS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": ZshComplete, "fish": _Fish}
SHELLS = tuple(_KINDS)


def script(group: click.Command, shell: str) -> str:
    """What makes `shell`, one of `SHELLS`, complete the command line of `group`."""
    # No source() of click's: it starts a bash to learn its version, also where the script is for another machine.
    kind = _KINDS[shell](group, {}, "dropzone", VARIABLE)
    return kind.source_template % kind.source_vars()
