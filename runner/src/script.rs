//! Finds the script in a bead: the first fenced block marked `sh`.

/// The text of the first fenced `sh` block, or nothing if there is none or if it is never closed.
///
/// Fences are read as `CommonMark` does (three or more backticks or tildes, indented by at most three spaces, closed by at
/// least as many), so an `sh` fence shown inside another block is not mistaken for one. An unclosed block is refused,
/// though `CommonMark` would read it to the end: what follows the body in a prompt must never run.
#[must_use]
pub fn first_sh_block(text: &str) -> Option<String> {
    let mut open: Option<(Fence<'_>, Vec<&str>)> = None;
    for line in text.lines() {
        let found = Fence::of(line);
        match (open.take(), found) {
            (None, fence) => open = fence.map(|fence| (fence, Vec::new())),
            (Some((fence, lines)), Some(closing)) if closing.closes(&fence) => {
                if fence.is_sh() {
                    let mut script = lines.join("\n");
                    script.push('\n');
                    return Some(script);
                }
            }
            (Some((fence, mut lines)), _) => {
                lines.push(line);
                open = Some((fence, lines));
            }
        }
    }
    None
}

/// A line that opens or closes a block.
struct Fence<'a> {
    mark: char,
    width: usize,
    info: &'a str,
}

impl<'a> Fence<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let text = line.trim_start_matches(' ');
        if line.len() - text.len() > 3 {
            return None;
        }
        let mark = text.chars().next().filter(|c| matches!(c, '`' | '~'))?;
        let info = text.trim_start_matches(mark);
        let width = text.len() - info.len();
        // A backtick in the info string would make it inline code.
        (width >= 3 && !(mark == '`' && info.contains('`'))).then_some(Self { mark, width, info: info.trim() })
    }

    fn closes(&self, opening: &Self) -> bool {
        self.mark == opening.mark && self.width >= opening.width && self.info.is_empty()
    }

    fn is_sh(&self) -> bool {
        self.info.split_whitespace().next() == Some("sh")
    }
}

#[cfg(test)]
mod tests {
    use super::first_sh_block;

    #[test]
    fn the_first_sh_block_is_found_among_others() {
        let text = "Title\n\ntext\n```rust\nfn x() {}\n```\n```sh\necho 1\n\necho 2\n```\n```sh\necho 3\n```\n";
        assert_eq!(first_sh_block(text).as_deref(), Some("echo 1\n\necho 2\n"));
    }

    #[test]
    fn a_block_inside_a_longer_fence_is_text() {
        assert_eq!(first_sh_block("````md\n```sh\nrm x\n```\n````\n"), None);
        assert_eq!(first_sh_block("~~~sh\necho t\n~~~"), Some("echo t\n".to_owned()));
    }

    #[test]
    fn an_unclosed_or_differently_named_block_is_none() {
        assert_eq!(first_sh_block("```sh\necho 1\n\nResume from checkpoint:"), None);
        assert_eq!(first_sh_block("```shell\necho 1\n```"), None);
        assert_eq!(first_sh_block("    ```sh\n    echo 1\n    ```"), None);
        assert_eq!(first_sh_block(""), None);
    }

    #[test]
    fn windows_line_ends_do_not_reach_the_shell() {
        assert_eq!(first_sh_block("```sh\r\necho 1\r\n```\r\n"), Some("echo 1\n".to_owned()));
    }
}
