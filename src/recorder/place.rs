//! Where the step file may lie: a folder of ours that nobody else can write to, since what stands in it
//! decides what is paid again.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Makes `folder`, and in it the folder of one namespace, where they are missing, and checks both.
/// `follow`: the folder comes from the service manager, which makes it a link of its own.
pub(crate) fn prepare(folder: &Path, follow: bool, namespace: &str) -> Result<PathBuf, String> {
    make(folder)?;
    check(folder, follow)?;
    let inner = folder.join(file_name(namespace));
    make(&inner)?;
    check(&inner, false)?;
    Ok(inner)
}

fn make(folder: &Path) -> Result<(), String> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| format!("{}: cannot be made: {error}", folder.display()))
}

/// Whether a folder is ours alone.
pub(crate) fn check(folder: &Path, follow: bool) -> Result<(), String> {
    let look = if follow {
        fs::metadata
    } else {
        fs::symlink_metadata::<&Path>
    };
    let about = look(folder).map_err(|error| refuse(folder, &error))?;
    if about.is_symlink() {
        return Err(format!("{}: is a link", folder.display()));
    }
    if !about.is_dir() {
        return Err(format!("{}: is no folder", folder.display()));
    }
    if about.uid() != rustix::process::geteuid().as_raw() {
        return Err(format!("{}: belongs to another user", folder.display()));
    }
    if about.mode() & 0o022 != 0 {
        return Err(format!("{}: others may write to it", folder.display()));
    }
    Ok(())
}

fn refuse(folder: &Path, error: &io::Error) -> String {
    format!("{}: {error}", folder.display())
}

/// A namespace as a file name: what is no plain letter, digit, `-` or `_` becomes `%` and two hex digits.
fn file_name(namespace: &str) -> String {
    let mut name = String::new();
    for byte in namespace.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_folder_is_made_for_us_alone_and_one_a_namespace() {
        let at = tempfile::tempdir().unwrap();
        let folder = at.path().join("a/b");
        let inner = prepare(&folder, false, "{fal}:x").unwrap();
        assert_eq!(inner, folder.join("%7bfal%7d%3ax"));
        for made in [&folder, &inner] {
            assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700);
        }
        assert_eq!(prepare(&folder, false, "{fal}:x").unwrap(), inner);
    }

    #[test]
    fn a_link_a_file_and_a_folder_open_to_others_are_refused() {
        let at = tempfile::tempdir().unwrap();
        let (real, link, file) = (
            at.path().join("real"),
            at.path().join("link"),
            at.path().join("file"),
        );
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        fs::write(&file, "").unwrap();
        assert!(
            prepare(&link, false, "fal")
                .unwrap_err()
                .ends_with("is a link")
        );
        assert!(prepare(&link, true, "fal").is_ok());
        assert!(prepare(&file, false, "fal").is_err());
        fs::set_permissions(&real, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            prepare(&real, false, "fal")
                .unwrap_err()
                .contains("others may write")
        );
    }

    #[test]
    fn a_link_in_the_place_of_the_namespace_is_refused() {
        let at = tempfile::tempdir().unwrap();
        symlink("/tmp", at.path().join("fal")).unwrap();
        assert!(
            prepare(at.path(), false, "fal")
                .unwrap_err()
                .ends_with("is a link")
        );
    }
}
