//! From the name of a module in an input to a file that may be run.
//!
//! What must stay true: nothing outside of the modules' directory is ever started, whatever the
//! name looks like and wherever symbolic links lead.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::os;

/// The longest name of a module.
const MAX_NAME_BYTES: usize = 1_024;

/// What runs a file that cannot run by itself, by the file's extension.
const INTERPRETERS: [(&str, &str); 4] =
    [("py", "python3"), ("sh", "sh"), ("js", "node"), ("mjs", "node")];

/// Why there is no file to run.
#[derive(Debug, thiserror::Error)]
pub(super) enum LocateError {
    /// It does not exist.
    #[error("does not exist")]
    Missing,
    /// It lies elsewhere.
    #[error("leads out of the modules' directory")]
    Outside,
    /// The system does not let us look.
    #[error("could not be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// How to start a module: a program and the arguments that come before the input's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Launch {
    /// The file itself or an interpreter.
    pub(super) program: String,
    /// The file, if an interpreter is to run it.
    pub(super) file: Option<String>,
    /// Where the file lies.
    pub(super) cwd: String,
}

/// What is wrong with a module's name as such, if something is.
pub(super) fn misnamed(name: &str) -> Option<&'static str> {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    if name.is_empty() {
        Some("must not be empty")
    } else if name.len() > MAX_NAME_BYTES {
        Some("must not be longer than 1024 bytes")
    } else if name.contains(|c: char| c.is_control() || c == '\\') {
        Some("must not contain backslashes or control characters")
    } else if name.starts_with('/') {
        Some("must be a path relative to the modules' directory")
    } else if !name.split('/').all(plain) {
        Some("must be a plain path, without \".\", \"..\" or empty parts")
    } else {
        None
    }
}

/// The file that `name` stands for, every symbolic link followed.
pub(super) fn locate(modules_dir: &Path, name: &str) -> Result<PathBuf, LocateError> {
    let root = fs::canonicalize(modules_dir)?;
    let file = match fs::canonicalize(root.join(name)) {
        Ok(file) => file,
        Err(error) => {
            return Err(match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => {
                    LocateError::Missing
                }
                _ => LocateError::Unreadable(error),
            });
        }
    };
    if file.starts_with(&root) && misnamed(name).is_none() {
        Ok(file)
    } else {
        Err(LocateError::Outside)
    }
}

/// How to start `file`, or why that is not possible.
///
/// An executable file runs by itself. One that is not, or a known script without a `#!` line,
/// runs by the interpreter for its extension: `.py` by `python3`, `.sh` by `sh`, `.js` and `.mjs`
/// by `node`.
pub(super) fn launch(file: &Path) -> Result<Launch, String> {
    let metadata = fs::metadata(file).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let (Some(path), Some(cwd)) = (file.to_str(), file.parent().and_then(Path::to_str)) else {
        return Err("its path is not UTF-8".to_owned());
    };
    let (path, cwd) = (path.to_owned(), cwd.to_owned());
    let extension = file.extension().and_then(|extension| extension.to_str());
    let interpreter = INTERPRETERS.iter().find(|(known, _)| Some(*known) == extension);
    let executable = os::is_executable(&metadata);
    match interpreter {
        // Some file systems call every file executable.
        Some((_, program)) if !executable || !names_its_interpreter(file) => {
            Ok(Launch { program: (*program).to_owned(), file: Some(path), cwd })
        }
        _ if executable => Ok(Launch { program: path, file: None, cwd }),
        _ => Err("it is neither executable nor a .py, .sh, .js or .mjs file".to_owned()),
    }
}

fn names_its_interpreter(file: &Path) -> bool {
    let mut start = [0; 2];
    File::open(file).and_then(|mut file| file.read_exact(&mut start)).is_ok() && &start == b"#!"
}
