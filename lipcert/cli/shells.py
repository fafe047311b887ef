"""The scripts that `lipcert completion bash|zsh|fish` prints. They ask `lipcert completion --words` for candidates."""

from __future__ import annotations

BASH = r"""# Completion of lipcert for bash. For this shell and for all later ones:
#   eval "$(lipcert completion bash)"
#   echo 'eval "$(lipcert completion bash)"' >> ~/.bashrc
_lipcert() {
    # bash breaks words at = and :, so the line is split here at spaces, and what stands before the last = or : is taken
    # off the candidates again.
    local line=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[[:space:]]/} words current before candidate about
    IFS=$' \t\n' read -a words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[${#words[@]} - 1]}
    before=${current%"${current##*[$breaks]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r candidate about; do
        candidate=${candidate#"$before"}
        [[ $candidate == *[[:space:]\'\"\\\$\`\&\;\|\(\)\<\>*?]* ]] && printf -v candidate %q "$candidate"
        [[ $candidate == *[=./] ]] || candidate+=" "
        COMPREPLY+=("$candidate")
    done < <("$1" completion --words "${words[@]:1}" 2> /dev/null)
}
complete -o nospace -F _lipcert lipcert
"""

ZSH = r"""#compdef lipcert
# Completion of lipcert for zsh. For this shell and for all later ones:
#   eval "$(lipcert completion zsh)"
#   echo 'eval "$(lipcert completion zsh)"' >> ~/.zshrc
_lipcert() {
    local -a done_ done_shown open_ open_shown
    local candidate about
    while IFS=$'\t' read -r candidate about; do
        if [[ $candidate == *[=./] ]]; then
            open_+=("$candidate") open_shown+=("${(r:32:)candidate} $about")
        else
            done_+=("$candidate") done_shown+=("${(r:32:)candidate} $about")
        fi
    done < <("${(Q)words[1]}" completion --words "${(@Q)words[2,CURRENT-1]}" "$PREFIX" 2> /dev/null)
    compadd -l -d done_shown -a done_
    compadd -l -S '' -d open_shown -a open_
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _lipcert lipcert
"""

FISH = r"""# Completion of lipcert for fish. For this shell and for all later ones:
#   lipcert completion fish | source
#   lipcert completion fish > ~/.config/fish/completions/lipcert.fish
function _lipcert
    set -l words (commandline -opc)
    $words[1] completion --words $words[2..] (commandline -ct) 2>/dev/null
end
complete -c lipcert -f -a '(_lipcert)'
"""

SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
