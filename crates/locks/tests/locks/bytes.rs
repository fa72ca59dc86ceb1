//! Commands, batches and tenures as bytes, and the refusal of malformed ones.

use crate::driver::{Ask, ask};
use palisade_locks::*;
use proptest::prelude::*;

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        Just(Mode::Exclusive),
        Just(Mode::Shared),
        (1..=u32::MAX).prop_flat_map(
            |limit| (1..=limit).prop_map(move |count| Mode::Permits { count, limit })
        ),
    ]
}

fn with_command(check: impl Fn(Command<'_>)) -> impl Fn(Parts) {
    move |(name, owner, session, request, token, ttl_ms, mode, wait, which)| {
        let (name, request_id, token) = (name.as_str(), RequestId(request), Token(token));
        check(match which {
            0 => {
                let (owner, session, metadata) = (owner.as_str(), session.as_str(), owner.as_str());
                let claim_ttl_ms =
                    if token.0.is_multiple_of(2) { 0 } else { 100 + (token.0 % 59_000) as u32 };
                Command::Acquire {
                    request_id,
                    name,
                    owner,
                    ttl_ms,
                    mode,
                    wait,
                    session,
                    metadata,
                    claim_ttl_ms,
                }
            }
            1 => Command::Renew { name, token },
            2 => Command::Release { name, token, by: wait.then_some(LeaseId(request as u64)) },
            3 => {
                let (life, broken_seen) =
                    if wait { (LeaseId(token.0), request as u64) } else { (LeaseId(0), 0) };
                Command::Heartbeat { session: name, life, broken_seen }
            }
            4 => Command::CloseSession { session: name },
            5 => Command::CancelWait { name, request_id, given_up: wait },
            6 => Command::ExpireLease {
                lease: LeaseId(request as u64),
                renewal_seq: (request >> 64) as u64,
            },
            _ => Command::Break { name, token, by: &owner, reason: name },
        });
    }
}

type Parts = (String, String, String, u128, u64, u32, Mode, bool, u8);

fn parts() -> impl Strategy<Value = Parts> {
    let text = || "[a-zä€ /]{0,20}";
    (
        "[a-zä€ /]{1,15}",
        text(),
        text(),
        any::<u128>(),
        0..1u64 << 53,
        TTL_MS,
        mode(),
        any::<bool>(),
        0..8u8,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commands_come_back_as_they_were(parts in parts()) {
        with_command(|command| {
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            assert_eq!(Command::decode(&bytes), Ok(command.clone()));
            for len in 0..bytes.len() {
                assert!(Command::decode(&bytes[..len]).is_err(), "cut short at {len}");
            }
            bytes.push(0);
            assert!(Command::decode(&bytes).is_err(), "a byte too many");
        })(parts);
    }

    #[test]
    fn commands_come_back_with_their_caller(
        parts in parts(),
        principal in "[a-zä€:/]{1,80}",
        bounds in prop::collection::vec(prop_oneof![Just(0), any::<u32>()], 3),
        at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let quota = Quota { locks: bounds[0], sessions: bounds[1], waits: bounds[2] };
        let caller = Caller { principal: &principal, quota };
        with_command(|command| {
            let mut bytes = Vec::new();
            command.encode_as(caller, &mut bytes);
            assert_eq!(Command::decode_as(&bytes), Ok((caller, command.clone())));
            assert!(Command::decode(&bytes).is_err(), "its caller would be lost");
            for len in 0..bytes.len() {
                assert!(Command::decode_as(&bytes[..len]).is_err(), "cut short at {len}");
            }
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok((caller, command)) = Command::decode_as(&bytes) {
                assert_eq!(validate(&command), Ok(()));
                assert_eq!(validate_principal(caller.principal), Ok(()));
            }
        })(parts);
    }

    #[test]
    fn damaged_commands_never_panic(parts in parts(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        with_command(|command| {
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(decoded) = Command::decode(&bytes) {
                assert_eq!(validate(&decoded), Ok(()));
            }
        })(parts);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Command::decode(&bytes);
        let _ = Tenure::decode("a", Token(1), &bytes);
        prop_assert!(Batch::decode(&bytes).is_err());
        prop_assert!(LockTable::restore(&bytes).is_err());
    }

    #[test]
    fn batches_come_back_and_damage_is_found(
        all in prop::collection::vec((parts(), 0..4_usize), 0..20),
        wall_ms in any::<u64>(), shard_ms in any::<u64>(),
        at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let stamp = Stamp { wall_ms, shard_ms };
        let mut builder = BatchBuilder::new(stamp);
        prop_assert!(builder.is_empty());
        let quota = Quota { locks: 1, sessions: 0, waits: 300 };
        let callers =
            [Caller::default(), Caller::of("ann"), Caller::of("bob"), Caller { principal: "ann", quota }];
        for (parts, caller) in &all {
            let builder = std::cell::RefCell::new(&mut builder);
            with_command(|command| {
                let mut bytes = Vec::new();
                command.encode_as(callers[*caller], &mut bytes);
                builder.borrow_mut().push(&bytes);
            })(parts.clone());
        }
        prop_assert_eq!(builder.len(), all.len());
        let size = builder.size_bytes();
        let mut bytes = builder.finish();
        prop_assert_eq!(bytes.len(), size);
        let batch = Batch::decode(&bytes).unwrap();
        prop_assert_eq!(batch.stamp, stamp);
        for ((parts, caller), decoded) in all.into_iter().zip(&batch.commands) {
            with_command(|command| assert_eq!(*decoded, (callers[caller], command)))(parts);
        }
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Batch::decode(&bytes).is_err());
        prop_assert!(Batch::decode(&bytes[..at]).is_err());
    }

    #[test]
    fn tenures_come_back_as_they_were(
        texts in prop::collection::vec("[a-zä€]{0,12}", 8), numbers in prop::collection::vec(any::<u64>(), 8),
        request in any::<u128>(), ttl_ms in any::<u32>(), mode in mode(), end in 0..3usize,
        at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let tenure = Tenure {
            grant: Grant {
                name: texts[0].clone(),
                owner: texts[1].clone(),
                principal: texts[6].clone(),
                token: Token(numbers[0]),
                mode,
                session: texts[2].clone(),
                metadata: texts[3].clone(),
                ttl_ms,
                claim_within_ms: 0,
                acquired_wall_ms: numbers[1],
                rest_ms: 0,
                expires_wall_ms: numbers[2],
                renewals: numbers[3],
                waited_ms: numbers[4],
                request_id: RequestId(request),
                lease: LeaseId(numbers[5]),
            },
            ended_wall_ms: numbers[6],
            end: [EndKind::Released, EndKind::Expired, EndKind::Broken][end],
            broken_by: texts[4].clone(),
            break_reason: texts[5].clone(),
            broken_by_principal: texts[7].clone(),
        };
        let mut ended = Ended::of(&tenure);
        prop_assert_eq!(ended.tenure(), Ok(tenure));
        for len in 0..ended.record.len() {
            prop_assert!(Tenure::decode(&ended.name, ended.token, &ended.record[..len]).is_err());
        }
        let at = at.index(ended.record.len());
        ended.record[at] = to;
        let _ = ended.tenure();
    }
}

#[test]
fn the_bytes_of_commands_and_batches_never_change() {
    let mut bytes = Vec::new();
    ask(0x0102, "ab").wait().permits(2, 300).session("s").command().encode(&mut bytes);
    let mut to_claim = Vec::new();
    ask(0x0102, "ab")
        .wait()
        .permits(2, 300)
        .session("s")
        .claim(300)
        .command()
        .encode(&mut to_claim);
    let mut expected = vec![1, 2, 1];
    expected.extend([0; 14]);
    expected.extend(b"\x02ab\x03ann\x88\x27\x02\x02\xac\x02\x01\x01s\x00");
    assert_eq!(bytes, expected);
    assert_eq!(to_claim, [&[10], &expected[1..], &b"\xac\x02"[..]].concat());
    for (command, expected) in [
        (Command::Renew { name: "n", token: Token(300) }, &b"\x02\xac\x02\x01n"[..]),
        (Command::Release { name: "n", token: Token(3), by: None }, b"\x03\x03\x01n"),
        (
            Command::Release { name: "n", token: Token(3), by: Some(LeaseId(300)) },
            b"\x0c\x03\x01n\xac\x02",
        ),
        (Command::Heartbeat { session: "s", life: LeaseId(0), broken_seen: 0 }, b"\x04\x01s"),
        (
            Command::Heartbeat { session: "s", life: LeaseId(300), broken_seen: 1 },
            b"\x09\x01s\xac\x02\x01",
        ),
        (Command::CloseSession { session: "s" }, b"\x05\x01s"),
        (
            Command::CancelWait { name: "n", request_id: RequestId(1), given_up: false },
            b"\x06\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01n",
        ),
        (
            Command::CancelWait { name: "n", request_id: RequestId(1), given_up: true },
            b"\x0b\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01n",
        ),
        (Command::ExpireLease { lease: LeaseId(7), renewal_seq: 128 }, b"\x07\x07\x80\x01"),
        (
            Command::Break { name: "n", token: Token(3), by: "b", reason: "r" },
            b"\x08\x03\x01n\x01b\x01r",
        ),
    ] {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        assert_eq!(bytes, expected, "{command:?}");
    }
    let renew = Command::Renew { name: "n", token: Token(300) };
    let within = Quota { locks: 300, sessions: 0, waits: 1 };
    for (caller, expected) in [
        (Caller::default(), &b"\x02\xac\x02\x01n"[..]),
        // A quota means nothing without an identity.
        (Caller { principal: "", quota: within }, b"\x02\xac\x02\x01n"),
        (Caller::of("ann"), b"\x0d\x03ann\x02\xac\x02\x01n"),
        (Caller { principal: "ann", quota: within }, b"\x0e\x03ann\xac\x02\0\x01\x02\xac\x02\x01n"),
    ] {
        let mut bytes = Vec::new();
        renew.encode_as(caller, &mut bytes);
        assert_eq!(bytes, expected, "{caller:?}");
    }
    let mut builder = BatchBuilder::new(Stamp { wall_ms: 1, shard_ms: 2 });
    builder.push(b"\x04\x01s");
    let bytes = builder.finish();
    assert_eq!(bytes[0], 1);
    assert_eq!(bytes[5..], *b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x03\x04\x01s");
}

/// The entry of these commands, and the bytes of its commands.
fn entry_of(commands: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
    let mut builder = BatchBuilder::default();
    commands.iter().for_each(|command| builder.push(command));
    let entry = builder.finish();
    let commands = entry[25..].to_vec();
    (entry, commands)
}

#[test]
fn an_entry_names_each_caller_once_and_then_by_its_number() {
    let commands: [&[u8]; 7] = [
        b"\x0d\x03ann\x04\x01s",
        b"\x04\x01s",
        b"\x0e\x03ann\x07\0\x01\x04\x01s", // with a quota she is another caller
        b"\x0d\x03bob\x04\x01s",
        b"\x0d\x03bob\x04\x01s",
        b"\x0d\x03ann\x04\x01s",
        b"\x0e\x03ann\x07\0\x01\x04\x01s",
    ];
    let (entry, bytes) = entry_of(&commands);
    let expected = [
        &b"\x08\x0d\x03ann\x04\x01s"[..],
        b"\x03\x04\x01s",
        b"\x0b\x0e\x03ann\x07\0\x01\x04\x01s",
        b"\x08\x0d\x03bob\x04\x01s",
        b"\x05\x0f\x02\x04\x01s",
        b"\x05\x0f\0\x04\x01s",
        b"\x05\x0f\x01\x04\x01s",
    ];
    assert_eq!(bytes, expected.concat());
    let decoded = Batch::decode(&entry).unwrap().commands;
    let alone = commands.map(|bytes| Command::decode_as(bytes).unwrap());
    assert_eq!(decoded, alone);
}

/// An entry of encoded commands, whose builder did not look at them.
fn raw_entry(commands: &[&[u8]]) -> Vec<u8> {
    let mut entry = BatchBuilder::default().finish();
    entry[21..25].copy_from_slice(&(commands.len() as u32).to_le_bytes());
    for command in commands {
        entry.push(command.len() as u8);
        entry.extend_from_slice(command);
    }
    let crc = crc32c::crc32c(&entry[5..]);
    entry[1..5].copy_from_slice(&crc.to_le_bytes());
    entry
}

#[test]
fn a_number_that_the_entry_has_not_named_is_refused() {
    let ann: &[u8] = b"\x0d\x03ann\x04\x01s";
    let by = |number: u8| [0x0f, number, 4, 1, b's'];
    assert!(Batch::decode(&raw_entry(&[ann, &by(0)])).is_ok());
    for (commands, why) in [
        (vec![&by(0)[..]], "nobody is named"),
        (vec![&by(0), ann], "it is named only later"),
        (vec![ann, &by(1)], "one is named"),
        (vec![ann, b"\x0f\xff\xff\xff\xff\x0f\x04\x01s"], "the largest number"),
        (vec![ann, b"\x0f\xff\xff\xff\xff\x1f\x04\x01s"], "past 32 bits"),
        (vec![ann, b"\x0f"], "no number"),
        (vec![ann, b"\x0f\0"], "no command"),
        (vec![ann, b"\x0f\0\x0f\0\x04\x01s"], "two numbers"),
    ] {
        assert!(Batch::decode(&raw_entry(&commands)).is_err(), "{why}");
    }
    assert!(Command::decode_as(&by(0)).is_err(), "no entry is around it");
}

#[test]
fn an_entry_of_an_earlier_version_names_its_callers_again_and_again() {
    let ann: &[u8] = b"\x0d\x03ann\x04\x01s";
    let entry = raw_entry(&[ann, ann, b"\x0d\x03bob\x04\x01s"]);
    let callers = Batch::decode(&entry).unwrap().commands.into_iter().map(|(caller, _)| caller);
    assert_eq!(callers.collect::<Vec<_>>(), ["ann", "ann", "bob"].map(Caller::of));
}

#[test]
fn a_count_that_is_not_there_is_refused() {
    let mut bytes = BatchBuilder::new(Stamp::default()).finish();
    bytes[21..25].copy_from_slice(&u32::MAX.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[5..]);
    bytes[1..5].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Batch::decode(&bytes).unwrap_err(), DecodeError("cut short"));
}

#[test]
fn an_oversize_batch_is_refused_and_cannot_be_built() {
    assert!(Batch::decode(&vec![1; BATCH_BYTES_MAX + 1]).is_err());
    let mut builder = BatchBuilder::default();
    let command = [0; 1_000];
    while builder.has_room(command.len()) {
        builder.push(&command);
    }
    assert!(builder.size_bytes() <= BATCH_BYTES_MAX);
    assert!(builder.size_bytes() > BATCH_BYTES_MAX - 1_010);
}

#[test]
fn a_batch_full_of_callers_is_no_larger() {
    // The shortest callers, and so many others that their numbers are longer than a short caller.
    let short: Vec<String> = (b'a'..=b'z').map(|letter| char::from(letter).to_string()).collect();
    let others = (0..20_000).map(|number| format!("{number:05}"));
    let mut builder = BatchBuilder::default();
    for principal in others.chain(short.iter().cycle().take(1 << 20).cloned()) {
        let mut bytes = Vec::new();
        let command = Command::CloseSession { session: "s" };
        command.encode_as(Caller::of(&principal), &mut bytes);
        if !builder.has_room(bytes.len()) {
            break;
        }
        builder.push(&bytes);
        assert!(builder.size_bytes() <= BATCH_BYTES_MAX);
    }
    assert!(builder.size_bytes() > BATCH_BYTES_MAX - 20, "{} bytes", builder.size_bytes());
    let (size, entry) = (builder.size_bytes(), builder.finish());
    assert_eq!(entry.len(), size);
    let decoded = Batch::decode(&entry).unwrap().commands;
    assert!(
        decoded[20_000..].iter().zip(short.iter().cycle()).all(|((by, _), of)| by.principal == of)
    );
}

/// A number may be one byte longer than its caller, and the length before it two bytes. Both are in
/// the room that a batch keeps for the last command.
#[test]
fn the_last_command_of_a_batch_fits_whatever_its_number() {
    let of = |principal: &str, session: &str| {
        let mut bytes = Vec::new();
        Command::CloseSession { session }.encode_as(Caller::of(principal), &mut bytes);
        bytes
    };
    let last = of("a", &"s".repeat(200));
    let mut took = 0;
    for room in 0..16 {
        let mut builder = BatchBuilder::default();
        (0..20_000).for_each(|number| builder.push(&of(&format!("{number:05}"), "s")));
        builder.push(&of("a", "s"));
        let mut filler = Vec::new();
        Command::CloseSession { session: "s" }.encode(&mut filler);
        // With three bytes of length.
        filler.resize(BATCH_BYTES_MAX - builder.size_bytes() - last.len() - room - 3, 0);
        builder.push(&filler);
        assert_eq!(builder.size_bytes() + last.len() + room, BATCH_BYTES_MAX);
        if builder.has_room(last.len()) {
            took += 1;
            builder.push(&last);
            assert!(builder.size_bytes() <= BATCH_BYTES_MAX, "with {room} bytes of room");
        }
    }
    assert!((1..16).contains(&took), "{took}");
}

/// The message to a caller that sends this command. The log must refuse the command too.
fn refusal(command: &Command<'_>) -> String {
    let mut bytes = Vec::new();
    command.encode(&mut bytes);
    assert!(Command::decode(&bytes).is_err(), "it decodes: {command:?}");
    validate(command).expect_err("out of bounds").to_string()
}

#[test]
fn input_out_of_bounds_is_refused_with_what_to_do() {
    let long = "x".repeat(2_000);
    let of = |ask: Ask<'_>| refusal(&ask.command());
    let fine = ask(1, "n");
    assert_eq!(of(ask(1, "")), "the resource name is empty: give a name of 1 to 512 bytes");
    assert_eq!(
        of(ask(1, &long[..513])),
        "the resource name is 513 bytes long: shorten it to at most 512 bytes"
    );
    assert_eq!(
        of(ask(1, "tab\there")),
        "the resource name has the control character U+0009 at byte 3: remove or encode it"
    );
    for name in ["\u{7f}", "x\u{85}", "\0"] {
        assert!(of(ask(1, name)).contains("control character"));
    }
    assert!(of(fine.owner(&long[..257])).contains("257 bytes"));
    assert!(of(fine.session(&long[..65])).contains("65 bytes"));
    for ttl_ms in [0, 99, 86_400_001] {
        assert!(
            of(fine.ttl(ttl_ms)).starts_with(&format!(
                "a TTL of {ttl_ms} ms is out of range: choose 100 ms to 24 h"
            ))
        );
    }
    for claim_ttl_ms in [1, 99, 60_001] {
        assert!(
            of(fine.claim(claim_ttl_ms))
                .starts_with(&format!("a claim TTL of {claim_ttl_ms} ms is out of range"))
        );
    }
    for (count, limit) in [(0, 0), (0, 3), (4, 3)] {
        assert!(
            of(fine.permits(count, limit))
                .starts_with(&format!("{count} of {limit} permits cannot be taken"))
        );
    }
    let Command::Acquire { request_id, name, owner, ttl_ms, mode, wait, session, .. } =
        fine.command()
    else {
        panic!("no acquire")
    };
    let metadata = &long[..1_025];
    let claim_ttl_ms = 0;
    let command = Command::Acquire {
        request_id,
        name,
        owner,
        ttl_ms,
        mode,
        wait,
        session,
        metadata,
        claim_ttl_ms,
    };
    assert!(refusal(&command).contains("1025 bytes"));

    let token = Token(1 << 53);
    assert!(refusal(&Command::Renew { name, token }).contains("below 2^53"));
    assert!(refusal(&Command::Release { name, token, by: None }).contains("below 2^53"));
    assert!(
        refusal(&Command::Heartbeat { session: "", life: LeaseId(0), broken_seen: 0 })
            .contains("session id is empty")
    );
    assert!(refusal(&Command::CloseSession { session: &long[..65] }).contains("65 bytes"));
    assert!(
        refusal(&Command::CancelWait { name: "", request_id, given_up: true })
            .contains("name is empty")
    );
    let token = Token(1);
    assert!(refusal(&Command::Break { name, token, by: "", reason: "" }).contains("say why"));
    assert!(
        refusal(&Command::Break { name, token, by: "", reason: metadata })
            .contains("the reason is 1025 bytes")
    );
    assert!(
        refusal(&Command::Break { name, token, by: metadata, reason: "r" }).contains("1025 bytes")
    );
}

#[test]
fn a_caller_that_no_gateway_sends_is_refused() {
    for bytes in [
        &b"\x0d\x00\x04\x01s"[..],      // no principal
        b"\x0d\x01\n\x04\x01s",         // a control character
        b"\x0e\x01a\0\0\0\x04\x01s",    // a quota without a bound
        b"\x0d\x01a\x0d\x01b\x04\x01s", // two callers
        b"\x0d\x01a",                   // no command
    ] {
        assert!(Command::decode_as(bytes).is_err(), "{bytes:?}");
    }
    let long = "x".repeat(257);
    let refusal = validate_principal(&long).expect_err("too long").to_string();
    assert!(refusal.contains("257 bytes"), "{refusal}");
    let refusal = validate_principal("a\u{7f}").expect_err("control character").to_string();
    assert!(refusal.contains("U+007F at byte 1"), "{refusal}");
    assert_eq!(validate_principal(&long[..256]), Ok(()));
}

#[test]
fn input_at_its_bounds_is_accepted() {
    let long = "x".repeat(1_024);
    for ttl_ms in [*TTL_MS.start(), *TTL_MS.end()] {
        let command = Command::Acquire {
            request_id: RequestId(u128::MAX),
            name: &long[..NAME_BYTES_MAX],
            owner: &long[..OWNER_BYTES_MAX],
            ttl_ms,
            mode: Mode::Permits { count: u32::MAX, limit: u32::MAX },
            wait: true,
            session: &long[..SESSION_BYTES_MAX],
            metadata: &long[..METADATA_BYTES_MAX],
            claim_ttl_ms: *CLAIM_TTL_MS.end(),
        };
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        assert_eq!(Command::decode(&bytes), Ok(command));
    }
    assert_eq!(
        validate_name("Â is U+00C2, whose first byte is that of control characters too"),
        Ok(())
    );
}
