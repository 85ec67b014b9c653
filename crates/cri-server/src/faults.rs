//! How failures are told: gRPC codes as CRI clients expect them, and ids that clients may shorten.

use keles_grpc::{Code, Status};
use keles_images::ImageError;
use keles_runtime::api::RuntimeError;

pub fn of_runtime(error: RuntimeError) -> Status {
    let code = match &error {
        RuntimeError::NotFound { .. } => Code::NotFound,
        RuntimeError::Timeout(_) => Code::DeadlineExceeded,
        _ => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

pub fn of_images(error: ImageError) -> Status {
    let code = match &error {
        ImageError::Absent { .. } => Code::NotFound,
        ImageError::Name { .. } | ImageError::Ambiguous { .. } => Code::InvalidArgument,
        ImageError::InUse { .. } => Code::FailedPrecondition,
        _ => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

pub fn invalid(message: impl Into<String>) -> Status {
    Status::new(Code::InvalidArgument, message)
}

/// A field that asks for what this runtime does not do.
pub fn refused(field: &str, what: impl std::fmt::Display) -> Status {
    Status::new(Code::Unimplemented, format!("{field}: {what}; leave it out, see docs/STATUS.md"))
}

/// The one with that id, or the only one whose id begins so, as containerd's clients may shorten ids.
pub fn one<T>(all: Vec<T>, what: &str, id: &str, id_of: impl Fn(&T) -> &String) -> Result<T, Status> {
    let mut found: Vec<T> = all.into_iter().filter(|item| !id.is_empty() && id_of(item).starts_with(id)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Status::new(Code::NotFound, format!("{what} {id:?} not found"))),
        n => Err(invalid(format!("{what} {id:?} is the beginning of {n} ids; give more of it"))),
    }
}

/// A missing sandbox or container is what removing and stopping want.
pub fn unless_absent<T>(found: Result<T, Status>) -> Result<Option<T>, Status> {
    match found {
        Err(status) if status.code == Code::NotFound => Ok(None),
        found => found.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_shortened_as_long_as_it_names_one() {
        let find = |id: &str| one(vec!["abc".to_owned(), "abd".to_owned(), "x".to_owned()], "container", id, |item| item).map_err(|status| status.code);
        assert_eq!((find("abc"), find("x")), (Ok("abc".to_owned()), Ok("x".to_owned())));
        assert_eq!((find("ab"), find("y"), find("")), (Err(Code::InvalidArgument), Err(Code::NotFound), Err(Code::NotFound)));
    }
}
