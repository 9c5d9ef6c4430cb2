use zxcvbn::{Score, zxcvbn};

use crate::error::{Code, Coded};

/// Words that everybody would try here.
const OURS: &[&str] = &["tasktracker", "reminder"];

/// A rule for garde: a password has 12 characters or more, at most 1,024 bytes, and is none of those that are tried
/// first. Nothing else is asked of it (NIST SP 800-63B §3.1.1.2).
///
/// # Errors
/// What is wrong with it.
#[expect(clippy::ptr_arg, reason = "garde hands on what the field holds")]
pub fn is_password(text: &String, (): &()) -> garde::Result {
    if text.chars().count() < 12 || text.len() > 1024 {
        let detail = "A password has 12 characters or more, and at most 1,024 bytes.";
        return Err(garde::Error::new(Coded(Code::InvalidLength, detail)));
    }
    if zxcvbn(text, OURS).score() < Score::Two {
        let detail =
            "This password is easy to guess. Choose several words that have nothing to do with each other.";
        return Err(garde::Error::new(Coded(Code::PasswordTooCommon, detail)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(password: &str) -> Option<Code> {
        let error = is_password(&password.to_owned(), &()).err()?;
        Coded::read(error.message()).map(|Coded(code, _)| code)
    }

    #[test]
    fn a_password_has_twelve_characters_and_is_not_one_of_the_first_to_be_tried() {
        for good in [
            "correct horse battery",
            "päßwörter sind länger",
            "Tr0ub4dour&3zebra",
            &format!("{:x<1024}", "correct horse battery "),
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        for length in ["", "elevenchars", &"x7Q!".repeat(257)] {
            assert_eq!(problem(length), Some(Code::InvalidLength), "{length}");
        }
        for common in [
            "password1234",
            "passwordpassword",
            "Password123!",
            "P@ssw0rd1234",
            "123456789012",
            "aaaaaaaaaaaa",
            "abcabcabcabc",
            "qwertyuiop12",
            "qwertyuiopasdfgh",
            "iloveyou1234",
            "tasktracker1",
            "tasktrackerreminder",
            "1q2w3e4r5t6y",
            "letmeinletmein",
            "abcdefghijkl",
            "            ",
        ] {
            assert_eq!(problem(common), Some(Code::PasswordTooCommon), "{common}");
        }
    }
}
