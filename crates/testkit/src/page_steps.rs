//! Numbered steps of a page: read out of it and run in order, so that page and product cannot part.
//!
//! ```text
//! let steps = PageSteps::below("docs/operate/upgrade.md", "outboxd without a gap").replacing("5432", &port);
//! let mut shell = PageShell::new("upgrade");
//! for step in steps.iter() {
//!     shell.run(step).await;                            // sh, sql, files, and the output that the page shows
//!     if step.number == 4 { /* what the page promises after this step */ }
//! }
//! ```
//!
//! A test with a machine of its own, such as a booted root, reads the blocks and runs them there instead: [`PageBlock::compare`].

use std::{fs, fs::File, os::unix::fs::symlink, path::Path, path::PathBuf, process::Stdio, time::Duration};

use super::{postgres, process, run};

/// A step that takes longer has failed.
const STEP_LIMIT: Duration = Duration::from_secs(180);

/// The numbered steps below one heading of a page.
#[derive(Debug)]
pub struct PageSteps(Vec<PageStep>);

/// One step.
#[derive(Debug)]
pub struct PageStep {
    /// Number as the page shows it.
    pub number: usize,
    /// Running text without the blocks.
    pub words: String,
    /// Fenced blocks, in order.
    pub blocks: Vec<PageBlock>,
}

/// A fenced block of a step.
#[derive(Debug)]
pub struct PageBlock {
    /// Page and line, for the message of a failure.
    pub place: String,
    /// `sh`, `sql`, or `text` and `json` for output of the block before it.
    pub language: String,
    /// Name of the file that a block such as ```` ```toml,outboxd.toml ```` is the content of.
    pub file: Option<String>,
    /// Content without the step's indentation.
    pub text: String,
}

impl PageSteps {
    /// Reads the steps below `heading` of `page`, a path from the repository's root. Fails when there are none.
    pub fn below(page: &str, heading: &str) -> Self {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
        let text = fs::read_to_string(format!("{root}{page}")).unwrap_or_else(|e| panic!("{page}: {e}"));
        Self::parse(page, &text, heading)
    }

    fn parse(page: &str, text: &str, heading: &str) -> Self {
        let mut steps: Vec<PageStep> = Vec::new();
        let (mut level, mut open) = (None, None::<(PageBlock, bool)>);
        for (line, number) in text.lines().zip(1..) {
            let inner = line.trim_start();
            if let Some((block, _)) = &mut open {
                if inner != "```" {
                    block.text.push_str(line.strip_prefix("   ").unwrap_or(line));
                    block.text.push('\n');
                } else if let (Some((block, true)), Some(step)) = (open.take(), steps.last_mut()) {
                    step.blocks.push(block);
                }
            } else if let Some(info) = inner.strip_prefix("```") {
                let mut marks = info.split(',').map(str::to_owned);
                let (language, place) = (marks.next().unwrap_or_default(), format!("{page}:{number}"));
                let file = marks.find(|mark| mark.contains('.'));
                // A block at the margin belongs to no step.
                open = Some((PageBlock { place, language, file, text: String::new() }, inner != line));
            } else if line.starts_with('#') {
                let title = line.trim_start_matches('#');
                let depth = line.len() - title.len();
                if level.is_some_and(|level| depth <= level) {
                    break;
                }
                level = level.or((title.trim() == heading).then_some(depth));
            } else if level.is_none() || inner.is_empty() {
            } else if let Some((digits, words)) = line.split_once(". ")
                && let Ok(number) = digits.parse()
            {
                steps.push(PageStep { number, words: words.to_owned(), blocks: Vec::new() });
            } else if let Some(step) = steps.last_mut() {
                step.words.push(' ');
                step.words.push_str(inner);
            }
        }
        assert!(!steps.is_empty(), "{page} has no numbered steps below a heading \"{heading}\"");
        Self(steps)
    }

    /// Replaces what the page says by what the test has. Fails when the page does not say it.
    pub fn replacing(mut self, page: &str, test: &str) -> Self {
        let mut blocks: Vec<_> = self.0.iter_mut().flat_map(|step| &mut step.blocks).collect();
        assert!(blocks.iter().any(|block| block.text.contains(page)), "no block of these steps says {page}");
        blocks.iter_mut().for_each(|block| block.text = block.text.replace(page, test));
        self
    }

    /// The steps in order.
    pub fn iter(&self) -> impl Iterator<Item = &PageStep> {
        self.0.iter()
    }
}

impl PageBlock {
    /// Compares the output of a command with this block, which shows it: each line occurs, in order. `<...>` stands for anything.
    pub fn compare(&self, output: &str) {
        let mut lines = output.lines();
        for shown in self.text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let found = lines.any(|line| is_like(line.trim(), shown));
            assert!(
                found,
                "{}: the output has no line `{shown}`, or not in this order:\n{output}",
                self.place
            );
        }
    }
}

/// Tells whether a line is `shown`, in which `<...>` stands for anything. The width of blanks does not count.
fn is_like(line: &str, shown: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, shown) = (words(line), words(shown));
    let (first, varies) = shown.split_once('<').unwrap_or((&shown, ""));
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for fixed in varies.split('<').filter_map(|part| Some(part.split_once('>')?.1)) {
        let found =
            if fixed.is_empty() { Some(rest.len()) } else { rest.find(fixed).map(|at| at + fixed.len()) };
        let Some(end) = found else { return false };
        rest = &rest[end..];
    }
    rest.is_empty()
}

/// A folder and an environment in which a page's blocks run. Variables stay from one block to the next, as in a terminal.
#[derive(Debug)]
pub struct PageShell {
    /// Folder of the shell's own files: programs, the block, its output, variables.
    own: PathBuf,
    /// Folder in which the blocks run, with nothing in it but what they make.
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

impl PageShell {
    /// Makes the folder. Its programs are those of PostgreSQL and of the machine.
    pub fn new(name: &str) -> Self {
        let own = run::folder(name);
        let folder = own.join("here");
        for folder in [&own.join("bin"), &folder] {
            fs::create_dir(folder).expect("folder made");
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}/bin:{}:{path}", own.display(), postgres::bin_dir().display());
        Self { own, folder, environment: vec![("PATH".to_owned(), path)] }
    }

    /// Gives a program the name by which the page calls it.
    pub fn program(self, name: &str, executable: &Path) -> Self {
        symlink(executable, self.own.join("bin").join(name)).expect("link made");
        self
    }

    /// Sets a variable, such as `PGPORT`.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Folder in which the blocks run.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs the blocks of a step, and returns the output of the last one. Fails when a block fails, when it does not print what
    /// the page shows, or when the step has no block: then the test does what the words say.
    pub async fn run(&self, step: &PageStep) -> String {
        assert!(!step.blocks.is_empty(), "step {} has nothing to run: {}", step.number, step.words);
        let mut output = String::new();
        for block in &step.blocks {
            match (&*block.language, &block.file) {
                (_, Some(file)) => fs::write(self.folder.join(file), &block.text).expect("file written"),
                ("sh", None) => output = self.block(block, &block.text).await,
                ("sql", None) => {
                    let psql = format!("psql -X -v ON_ERROR_STOP=1 <<'END OF SQL'\n{}END OF SQL", block.text);
                    output = self.block(block, &psql).await;
                }
                ("text" | "json" | "message", None) => block.compare(&output),
                (other, None) => panic!("{}: a block of {other} cannot be run", block.place),
            }
        }
        output
    }

    /// Runs a block in a shell. Processes that it leaves in the background stay, until the shell is dropped.
    async fn block(&self, block: &PageBlock, script: &str) -> String {
        let keep = format!(
            "cd here\nset -a\n[ ! -e ../variables ] || . ../variables\n{script}\nexport -p >../variables\n"
        );
        fs::write(self.own.join("block"), keep).expect("script written");
        // A file of its own: what a background process prints later is no output of the next block.
        let log = self.own.join("output");
        let _ = fs::remove_file(&log);
        let out = File::create(&log).expect("file made");
        let mut command = process::short_command("setsid");
        command.args(["-w", "sh", "-eu", "block"]).current_dir(&self.own).kill_on_drop(true);
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command.stderr(out.try_clone().expect("a file can be duplicated")).stdout(out);
        let ended = tokio::time::timeout(STEP_LIMIT, command.status()).await;
        let said = fs::read_to_string(&log).unwrap_or_default();
        println!("{}\n{}{said}", block.place, block.text);
        let status = ended.unwrap_or_else(|_| panic!("{}: not over in time:\n{said}", block.place));
        let status = status.expect("sh runs");
        assert!(status.success(), "{}: {status}:\n{}{said}", block.place, block.text);
        said
    }
}

impl Drop for PageShell {
    fn drop(&mut self) {
        run::sweep(&self.own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# Page
## Before
1. Not this.
```sh
# Do this
```
## Do this
Words.
```sh
# After
```

1. Look at `it`,
   twice.

   ```sh
   # a comment
   echo a   12 b; new=7
   ```

   ```text
   a <n> b
   ```

2. Write.

   ```toml,x.toml
   a = 1
     b = 2
   ```
   ```sh
   cat x.toml; echo $new
   ```
### Deeper
3. Think.
## After
1. Not this either.
";

    #[tokio::test]
    async fn the_steps_of_a_section_are_read_and_run() {
        let steps = PageSteps::parse("p.md", PAGE, "Do this").replacing("12", "13");
        let [first, second, third] = &*steps.0 else { panic!("{steps:?}") };
        assert_eq!((first.number, &*first.words), (1, "Look at `it`, twice."));
        assert_eq!((third.number, &*third.words, third.blocks.len()), (3, "Think.", 0));
        assert_eq!(
            (&*first.blocks[1].place, &*first.blocks[0].text),
            ("p.md:21", "# a comment\necho a   13 b; new=7\n")
        );
        let shell = PageShell::new("page").variable("A", "b");
        assert_eq!(shell.run(first).await, "a 13 b\n");
        assert_eq!(shell.run(second).await, "a = 1\n  b = 2\n7\n");
    }

    #[test]
    fn a_page_that_shows_something_else_is_noticed() {
        for (line, shown, expected) in [
            ("a  12 b", "a <n> b", true),
            ("x a 12 b", "a <n> b", false),
            ("a 12 c", "a <n> b", false),
            ("a 12 b c", "a <n> b", false),
            ("a 12 b c", "a <n> b <more>", true),
            ("plain", "plain", true),
            ("plainly", "plain", false),
        ] {
            assert_eq!(is_like(line, shown), expected, "{line} | {shown}");
        }
    }

    #[test]
    #[should_panic = "has no numbered steps below a heading \"Do that\""]
    fn a_heading_that_is_gone_is_noticed() {
        PageSteps::parse("p.md", PAGE, "Do that");
    }

    #[test]
    #[should_panic = "no block of these steps says 5432"]
    fn a_text_that_the_page_does_not_have_is_noticed() {
        let _ = PageSteps::parse("p.md", PAGE, "Do this").replacing("5432", "1");
    }
}
