//! Several issuers.

use super::*;
use crate::issuers::Scope;

/// KAZOO's key, an issuer with a key of its own, and both with one of the same id.
fn two_issuers() -> (JwtVerifier, [TempDir; 2]) {
    let dirs = [TempDir::new(), TempDir::new()];
    dirs[0].write("same.pem", testing::RSA_PUBLIC);
    dirs[0].write("kazoo.pem", testing::RSA_PUBLIC);
    dirs[1].write("same.pem", testing::P256_PUBLIC);
    dirs[1].write("idp.pem", testing::P256_PUBLIC);
    let [kazoo, idp] = [&dirs[0], &dirs[1]].map(|dir| Some(Arc::new(Reloaded::open(dir.path()).unwrap())));
    let listed = Issuer {
        iss: "https://idp".into(),
        keys: idp,
        audience: Some("me".into()),
        scope: Arc::new(Scope::Below(vec!["child".into()])),
        ..Issuer::kazoo(None, None)
    };
    (JwtVerifier::new(vec![Issuer::kazoo(None, kazoo), listed]), dirs)
}

#[test]
fn a_token_verifies_only_with_a_key_of_its_issuer() {
    let (verifier, _dirs) = two_issuers();
    let (kazoo, idp) = (Algorithm::RS256, Algorithm::ES256);
    for (iss, algorithm, kid, expected) in [
        (Some("kazoo"), kazoo, "kazoo", Ok(())),
        (Some("kazoo"), kazoo, "same", Ok(())),
        (Some("kazoo"), idp, "idp", Err(Refusal::Issuer)),
        (Some("kazoo"), idp, "same", Err(Refusal::Issuer)),
        (Some("kazoo"), idp, "kazoo", Err(Refusal::KeyMismatch)),
        (Some("https://idp"), idp, "idp", Ok(())),
        (Some("https://idp"), idp, "same", Ok(())),
        (Some("https://idp"), kazoo, "kazoo", Err(Refusal::Issuer)),
        (Some("https://idp"), kazoo, "same", Err(Refusal::Issuer)),
        (Some("https://other"), kazoo, "kazoo", Err(Refusal::Issuer)),
        (Some("https://other"), kazoo, "other", Err(Refusal::UnknownKey)),
        (None, kazoo, "kazoo", Err(Refusal::Issuer)),
    ] {
        let mut claims = valid_claims();
        claims["iss"] = json!(iss);
        if algorithm == idp {
            claims["aud"] = json!(["me"]);
        }
        let token = signed(algorithm, Some(kid), &claims);
        let verified = verifier.verify_at(&token, NOW);
        if let Ok(verified) = &verified {
            assert_eq!(*verified.scope == Scope::All, iss == Some("kazoo"));
        }
        assert_eq!(verified.map(drop), expected, "{iss:?} {kid}");
    }
}

/// Two issuers may use the same key, or the same id for different keys of one kind.
#[test]
fn each_issuer_with_a_key_of_this_id_is_tried() {
    let dirs = [TempDir::new(), TempDir::new(), TempDir::new()];
    for (dir, pem) in dirs.iter().zip([testing::RSA_PUBLIC, testing::RSA_PUBLIC, testing::KAZOO_PUBLIC]) {
        dir.write("1.pem", pem);
    }
    let issuers = dirs.iter().zip(["a", "b", "c"]).map(|(dir, iss)| Issuer {
        iss: iss.into(),
        ..Issuer::kazoo(None, Some(Arc::new(Reloaded::open(dir.path()).unwrap())))
    });
    let verifier = JwtVerifier::new(issuers.collect());
    for (iss, expected) in [("a", Ok(())), ("b", Ok(())), ("c", Err(Refusal::Issuer))] {
        let mut claims = valid_claims();
        claims["iss"] = json!(iss);
        let token = signed(Algorithm::RS256, Some("1"), &claims);
        assert_eq!(verifier.verify_at(&token, NOW).map(drop), expected);
    }
}

#[test]
fn a_listed_issuer_has_its_own_audience() {
    let (verifier, _dirs) = two_issuers();
    for aud in [json!(null), json!("other"), json!(["other"])] {
        let mut claims = valid_claims();
        claims["iss"] = json!("https://idp");
        claims["aud"] = aud;
        let token = signed(Algorithm::ES256, Some("idp"), &claims);
        assert_eq!(verifier.verify_at(&token, NOW), Err(Refusal::Audience));
    }
}
