//! Random bindings of clients, with the AMQP patterns that KAZOO binds for them.

use blackhole_dev::simulator::encode_word;

use super::{
    reference::{Asked, IDS, LITERAL, WORDS, Who, one_of},
    users,
};

/// Forms of bindings.
pub(super) const FORMS: u8 = 18;

/// A word of a binding, `*` or an id: as the client writes it and as KAZOO encodes it.
fn asked_word(dice: u8) -> (String, String) {
    match dice % 3 {
        0 => ("*".to_owned(), "*".to_owned()),
        _ => {
            let id = one_of(WORDS, dice);
            let written = if id.contains(['.', '%']) { encode_word(id) } else { id.to_owned() };
            (written, encode_word(id))
        }
    }
}

/// A binding of this session.
pub(super) fn asked(who: &Who, dice: [u8; 4]) -> Asked {
    let mut asked = of_an_account(who, dice);
    if let Who::Account { user: Some(_), .. } = who {
        asked.allowed &= users::say_whose(&asked);
    }
    asked
}

fn of_an_account(who: &Who, dice: [u8; 4]) -> Asked {
    let [form, one, two, choice] = dice;
    let ((mine, its), (other, others)) = (asked_word(one), asked_word(two));
    let superduper = who.is_superduper();
    let (acc, has_realm) = match who {
        Who::Account { id, realm, .. } => (format!("{LITERAL}{id}"), realm.is_some()),
        Who::All { .. } => ("*".to_owned(), true),
    };
    let token_id = encode_word(who.token_id());
    let rest = choice.is_multiple_of(5);
    // `#` replaces the remaining parameters.
    let tail = |text: &str| if rest { "#".to_owned() } else { text.to_owned() };
    let given = mine != "*";
    let asked = |binding: String, exchange, pattern: String| Asked {
        binding,
        exchange,
        patterns: Some(vec![pattern]),
        allowed: true,
    };
    let actions = ["doc_created", "doc_edited", "doc_deleted"];
    let action = one_of(&["doc_created", "doc_edited", "doc_deleted", "*"], choice);
    let of_documents = |binding: String, kind: &str| Asked {
        binding,
        exchange: "configuration",
        patterns: Some(
            actions
                .iter()
                .filter(|one| action == "*" || action == **one)
                .map(|action| format!("{action}.*.{kind}.*"))
                .collect(),
        ),
        allowed: true,
    };
    match form % FORMS {
        17 => strange([one, two, choice]),
        0 => {
            let name = one_of(&["CHANNEL_CREATE", "PARK_PARKED", "*"], choice);
            asked(format!("call.{name}.{}", tail(&mine)), "callevt", format!("call.{name}.{}", tail(&its)))
        }
        1 => asked("call.#".into(), "callevt", "call.#".into()),
        // KAZOO 4.3's last releases, if a conference is given. Otherwise KAZOO 5's form with any event.
        2 if choice.is_multiple_of(2) => {
            let name = one_of(&["add-member", "*"], two);
            let (pattern, allowed) = match given {
                true => (format!("conference.event.{name}.{acc}.{its}.*"), true),
                false => (format!("conference.event.*.{acc}.*.{name}"), superduper),
            };
            Asked { allowed, ..asked(format!("conference.event.{mine}.*.{name}"), "conference", pattern) }
        }
        2 => Asked {
            allowed: given,
            ..asked(
                format!("conference.event.{mine}.{other}"),
                "conference",
                format!("conference.event.*.{acc}.{its}.{others}"),
            )
        },
        3 => {
            let (name, names) = match choice % 2 {
                0 => ("add-member", "add-member"),
                _ => (other.as_str(), others.as_str()),
            };
            let binding = format!("conference.event.{name}.{mine}.*");
            if !given && !["add-member", "*"].contains(&name) {
                // The first word is no event, so it is the conference of KAZOO 4.3's form.
                return asked(binding, "conference", format!("conference.event.*.{acc}.{names}.*"));
            }
            let pattern = format!("conference.event.{names}.{acc}.{its}.*");
            Asked { allowed: given || superduper, ..asked(binding, "conference", pattern) }
        }
        4 => Asked {
            allowed: given || superduper,
            ..asked(format!("conference.command.{mine}"), "conference", format!("conference.command.{its}"))
        },
        5 => {
            let kind = one_of(&["user", "fax", "device", "account", "*"], two);
            of_documents(format!("object.{action}.{kind}"), kind)
        }
        6 => of_documents(format!("fax.object.{action}"), "fax"),
        7 => {
            let action = one_of(&actions, choice);
            asked(
                format!("{action}.*.user.{}", tail(&mine)),
                "configuration",
                format!("{action}.*.user.{}", tail(&its)),
            )
        }
        8 => {
            asked(format!("fax.status.{}", tail(&mine)), "faxes", format!("fax.status.{acc}.{}", tail(&its)))
        }
        9 | 10 => {
            let what = one_of(&["dialog", "update", "mwi_updates"], choice);
            // Realms are compared ignoring case, which patterns cannot do: `gets` compares them.
            Asked {
                allowed: has_realm,
                ..asked(format!("presence.{what}.{mine}"), "presence", format!("{what}.*.{its}"))
            }
        }
        11 => {
            let name = one_of(&["start", "stop", "*"], choice);
            asked(format!("stream.{name}.{mine}"), "pivot", format!("pivot.stream.{name}.{acc}.{its}"))
        }
        12 => {
            let name = one_of(&["chat", "caption", "*"], choice);
            asked(
                format!("live.conference.{name}.{}", tail(&mine)),
                "live",
                format!("live.conference.{acc}.{name}.{}", tail(&its)),
            )
        }
        13 => asked(format!("relay.{mine}"), "live", format!("relay.{acc}.{its}.{token_id}")),
        14 => asked(
            format!("dialog.event.{mine}.{}", tail(&other)),
            "dialog",
            format!("dialog.event.{acc}.{its}.{}", tail(&others)),
        ),
        15 => {
            let what = one_of(&["session", "queue", "recipient", "*"], choice);
            if two.is_multiple_of(3) {
                let patterns = vec![format!("qubicle.{what}.{acc}.*"), format!("qubicle.{what}.{acc}.*.*")];
                return Asked {
                    patterns: Some(patterns),
                    ..asked(format!("qubicle.{what}"), "qubicle", String::new())
                };
            }
            asked(
                format!("qubicle.{what}.{mine}.{other}"),
                "qubicle",
                format!("qubicle.{what}.{acc}.{its}.{others}"),
            )
        }
        _ => asked(
            format!("notifications.{mine}.{}", tail(&other)),
            "notifications",
            format!("notifications.{its}.{}", tail(&others)),
        ),
    }
}

/// A binding that no client of KAZOO would send: whatever becomes of it, it must not reach other accounts' events.
fn strange(dice: [u8; 3]) -> Asked {
    const PIECES: &[&str] = &[
        "call",
        "CHANNEL_CREATE",
        "doc_created",
        "conference",
        "event",
        "fax",
        "status",
        "presence",
        "update",
        "live",
        "relay",
        "*",
        "#",
        ">",
        "",
        "=",
        "=2A",
        "%2E",
        "%2A",
        "%",
        "%00",
        "_",
        "@harbour",
        "ev",
        "\u{0}",
        "\r\n",
        "é",
        "**",
    ];
    let [first, second, third] = dice;
    let account = one_of(IDS, first ^ third);
    let pieces = [one_of(PIECES, first), one_of(PIECES, second), account, one_of(PIECES, third), "*"];
    let length = 1 + usize::from(first ^ second) % pieces.len();
    Asked { binding: pieces[..length].join("."), exchange: "", patterns: None, allowed: false }
}
