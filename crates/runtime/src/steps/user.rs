//! Who the process is: the image's user or the pod's, looked up in the container's own /etc/passwd and /etc/group.
//!
//! After pivot. Rules as containerd's: `runAsUser` wins over the image's name; its gid and groups come from passwd and
//! group when the uid is listed there, else gid 0.

use crate::api::Security;
use crate::wire::Failure;
use keles_linux::rooted::RootDir;
use rustix::fs::OFlags;
use std::path::{Path, PathBuf};

/// Files larger than this are no user databases.
const MAX_DATABASE_BYTES: u64 = 4 << 20;

#[derive(Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PasswdLine {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// Who a container's first process will be, from its image's layers (topmost first): what CRI's ContainerUser tells before and after it runs.
/// None where the user cannot be found; the start then says so.
pub fn of_layers(security: &Security, layers: &[PathBuf]) -> Option<User> {
    resolve_in(security, &database_in(layers, "etc/passwd"), &database_in(layers, "etc/group")).ok()
}

/// The topmost file of that name, as an overlay shows it: a whiteout hides those below. Links stay within their layer.
fn database_in(layers: &[PathBuf], name: &str) -> String {
    use std::io::Read;
    let find = |layer: &PathBuf| RootDir::open(layer).ok().filter(|root| root.resolve(Path::new(name), OFlags::PATH | OFlags::NOFOLLOW).is_ok());
    // Opened only to read: a whiteout is a device that cannot be, and nothing else waits for a writer.
    let open = |root: RootDir| root.resolve(Path::new(name), OFlags::RDONLY | OFlags::NONBLOCK).ok().map(std::fs::File::from);
    let mut bytes = Vec::new();
    if let Some(file) = layers.iter().find_map(find).and_then(open).filter(|file| file.metadata().is_ok_and(|about| about.is_file())) {
        let _ = file.take(MAX_DATABASE_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub fn resolve(security: &Security) -> Result<User, Failure> {
    resolve_in(security, &read_database("/etc/passwd"), &read_database("/etc/group"))
}

/// The home folder that /etc/passwd gives a uid, else `/`.
pub fn home_of(uid: u32) -> String {
    passwd_lines(&read_database("/etc/passwd")).find(|l| l.uid == uid).map(|l| l.home).filter(|h| !h.is_empty()).unwrap_or_else(|| "/".into())
}

fn read_database(path: &str) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // Absent or unreadable is an empty database, as in images built from scratch.
        let _ = file.take(MAX_DATABASE_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn passwd_lines(text: &str) -> impl Iterator<Item = PasswdLine> + '_ {
    text.lines().filter_map(|l| {
        let f: Vec<&str> = l.split(':').collect();
        Some(PasswdLine { name: (*f.first()?).to_owned(), uid: f.get(2)?.parse().ok()?, gid: f.get(3)?.parse().ok()?, home: f.get(5).copied().unwrap_or_default().to_owned() })
    })
}

/// (name, gid, members)
fn group_lines(text: &str) -> impl Iterator<Item = (&str, u32, Vec<&str>)> {
    text.lines().filter_map(|l| {
        let mut f = l.split(':');
        let (name, gid) = (f.next()?, f.nth(1)?.parse().ok()?);
        Some((name, gid, f.next().unwrap_or_default().split(',').filter(|m| !m.is_empty()).collect()))
    })
}

fn resolve_in(security: &Security, passwd: &str, group: &str) -> Result<User, Failure> {
    let failed = |m: String| Failure::new("resolve user", m);
    let number = |v: i64| u32::try_from(v).map_err(|_| failed(format!("id {v} is out of range")));
    let (user_word, group_word) = match security.run_as_user {
        Some(uid) => (number(uid)?.to_string(), ""),
        None => {
            let (user, group) = security.run_as_username.split_once(':').unwrap_or((&security.run_as_username, ""));
            (user.to_owned(), group)
        }
    };
    let word = if user_word.is_empty() { "0" } else { &user_word };
    let line = passwd_lines(passwd).find(|l| l.name == word).or_else(|| passwd_lines(passwd).find(|l| word.parse() == Ok(l.uid)));
    let uid = match (&line, word.parse::<u32>()) {
        (Some(l), _) => l.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) => return Err(failed(format!("unable to find user {word}: no matching entries in passwd file"))),
    };
    let gid = match (security.run_as_group, group_word) {
        (Some(gid), _) => number(gid)?,
        (None, "") => line.as_ref().map_or(0, |l| l.gid),
        (None, g) => match (group_lines(group).find(|(n, ..)| *n == g), g.parse()) {
            (Some((_, gid, _)), _) => gid,
            (None, Ok(gid)) => gid,
            (None, Err(_)) => return Err(failed(format!("unable to find group {g}: no matching entries in group file"))),
        },
    };
    let mut groups = vec![gid];
    if let Some(l) = line.as_ref().filter(|_| !security.strict_groups) {
        groups.extend(group_lines(group).filter(|(_, _, members)| members.contains(&l.name.as_str())).map(|(_, gid, _)| gid));
    }
    for g in &security.supplemental_groups {
        groups.push(number(*g)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|g| seen.insert(*g));
    let home = line.map(|l| l.home).filter(|h| !h.is_empty()).unwrap_or_else(|| "/".into());
    Ok(User { uid, gid, groups, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_layer_that_has_a_database_counts_and_links_stay_inside() {
        let dir = tempfile::tempdir().expect("a folder");
        let layer = |name: &str, passwd: Option<&str>| {
            let folder = dir.path().join(name);
            std::fs::create_dir_all(folder.join("etc")).expect("made");
            passwd.inspect(|text| std::fs::write(folder.join("etc/passwd"), text).expect("written"));
            folder
        };
        let (top, middle, low) = (layer("top", None), layer("middle", Some("web:x:7:8::/:\n")), layer("low", Some("web:x:1:2::/:\n")));
        let web = Security { run_as_username: "web".into(), ..Security::default() };
        let found = of_layers(&web, &[top.clone(), middle, low.clone()]).map(|user| (user.uid, user.gid, user.groups));
        assert_eq!(found, Some((7, 8, vec![8])));
        std::os::unix::fs::symlink("/etc/passwd", top.join("etc/passwd")).expect("linked");
        assert_eq!(of_layers(&web, &[top, low]), None, "the link leads to itself inside its layer, not to the host's users");
    }

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:7:web,other\n2000:x:55:\n";

    fn user(security: Security) -> (u32, u32, Vec<u32>, String) {
        let u = resolve_in(&security, PASSWD, GROUP).unwrap();
        (u.uid, u.gid, u.groups, u.home)
    }

    #[test]
    fn the_images_user_by_name_has_its_groups_and_home() {
        let s = Security { run_as_username: "web".into(), ..Security::default() };
        assert_eq!(user(s), (101, 102, vec![102, 7], "/srv".into()));
    }

    #[test]
    fn an_explicit_group_of_the_image_wins_over_passwd() {
        let s = Security { run_as_username: "101:logs".into(), ..Security::default() };
        assert_eq!(user(s), (101, 7, vec![7], "/srv".into()));
    }

    #[test]
    fn run_as_user_wins_and_an_unlisted_uid_has_group_zero() {
        let s = Security { run_as_username: "web".into(), run_as_user: Some(1234), supplemental_groups: vec![3456, 3456], ..Security::default() };
        assert_eq!(user(s), (1234, 0, vec![0, 3456], "/".into()));
        let s = Security { run_as_user: Some(101), run_as_group: Some(2345), ..Security::default() };
        assert_eq!(user(s.clone()), (101, 2345, vec![2345, 7], "/srv".into()));
        let strict = Security { supplemental_groups: vec![9], strict_groups: true, ..s };
        assert_eq!(user(strict), (101, 2345, vec![2345, 9], "/srv".into()), "the image's groups stay out");
    }

    #[test]
    fn no_user_is_root_and_an_unknown_name_is_an_error() {
        assert_eq!(user(Security::default()), (0, 0, vec![0], "/root".into()));
        let s = Security { run_as_username: "nobody-here".into(), ..Security::default() };
        assert!(resolve_in(&s, PASSWD, GROUP).unwrap_err().message.contains("unable to find user nobody-here"));
    }
}
