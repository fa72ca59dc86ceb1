//! Policies and tokens files.

const POLICIES: [&str; 5] = [
    "roles: { payments: { hold: [\"payment:\"], read: [\"payment:\"], watch: [\"payment:\"] } }\n\
     bindings:\n  - { identities: [\"spiffe://corp/payments/*\"], roles: [payments] }\n",
    "roles:\n  operator: { observe: true, operate: true, break: [\"\"], read: [\"\"] }\n\
     bindings:\n  - identities: [alice, \"bob\"]\n    roles: [operator]\n    owner: \"{identity}/*\"\n",
    "quotas:\n  default: { operations_per_second: 50000, burst: 100000, streams: 8 }\n  \
     batch: { locks_per_shard: 3, sessions_per_shard: 2, waits_per_shard: 1, waits: 9 }\n\
     roles: { r: { read: [\"orders/\"] } }\nbindings: [{ identities: [\"*\"], roles: [r], quota: batch }]\n",
    "revoked:\n  - mallory\n  - sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n",
    "roles: { r: { read: [\"\"] } }\nbindings: [{ identities: [anonymous], roles: [r] }]\n",
];

const TOKENS: [&str; 4] = [
    "[]\n",
    "- { identity: bob, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 }\n",
    "- identity: \"spiffe://corp/ci\"\n  \
     sha256: 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\n  \
     expires: 2027-01-01T00:00:00Z\n",
    "- { identity: a, sha256: 0101010101010101010101010101010101010101010101010101010101010101 }\n\
     - { identity: b, sha256: 0202020202020202020202020202020202020202020202020202020202020202, \
     expires: \"2030-06-30T12:00:00.5Z\" }\n",
];

/// Policies of all keys.
pub(super) fn policies() -> [Vec<u8>; 5] {
    POLICIES.map(Vec::from)
}

/// Tokens files of all keys.
pub(super) fn tokens() -> [Vec<u8>; 4] {
    TOKENS.map(Vec::from)
}
