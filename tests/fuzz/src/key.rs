//! Files of public keys.

use auth_svc::keys::VerifyingKey;

/// A key has algorithms, and no signature of another is one of its own.
pub(crate) fn run(input: &[u8]) -> bool {
    match VerifyingKey::from_pem(input) {
        Ok(key) => {
            assert!(!key.algorithms().is_empty() && key.fingerprint().len() == 32);
            for algorithm in key.algorithms() {
                assert!(!key.verifies(*algorithm, "signed", "AAAA"));
            }
            true
        }
        Err(reason) => {
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
            false
        }
    }
}
