// The functions on texts and numbers, without a browser.

import assert from "node:assert/strict";
import test from "node:test";
import { length, link, pieces, plain, size, span } from "../../crates/console/files/text.js";

test("odd characters are escapes, and no text is lost", () => {
  for (const [text, shown] of [
    ["orders/42", "orders/42"],
    ["a\u202egnp.exe", "a\\u{202E}gnp.exe"],
    ["zero\u200bwidth", "zero\\u{200B}width"],
    ["line\nfeed\ttab", "line\\nfeed\\ttab"],
    [" edges  ", "␣edges␣␣"],
    ["a b", "a b"],
    ["no\u00a0break", "no\\u{00A0}break"],
    ["joined\u034f\u180b\ufe0f\u{e0100}", "joined\\u{034F}\\u{180B}\\u{FE0F}\\u{E0100}"],
    ["wide\u3000thin\u2009\u202f\u1680\u205f", "wide\\u{3000}thin\\u{2009}\\u{202F}\\u{1680}\\u{205F}"],
    ["blank\u2800\u3164\u115f", "blank\\u{2800}\\u{3164}\\u{115F}"],
    ["two  inside", "two  inside"],
    ["tag\u{e0041}", "tag\\u{E0041}"],
    ["日本語 عربى é", "日本語 عربى é"],
    ["<b>&amp;", "<b>&amp;"],
    ["", ""],
  ]) {
    assert.equal(plain(text), shown);
    const kept = pieces(text).filter((piece) => !piece.odd).map((piece) => piece.text).join("");
    assert.ok(kept.length <= text.length);
  }
  // What was escaped cannot be mistaken for what a client wrote, because it is marked.
  assert.deepEqual(pieces("\\u{202E}"), [{ text: "\\u{202E}", odd: false }]);
});

test("time spans have two units", () => {
  for (const [ms, text] of [[0, "0 ms"], [999, "999 ms"], [59_999, "59 s"], [61_000, "1 m 01 s"],
    [3_660_000, "1 h 01 m"], [90_000_000, "1 d 01 h"], [-5, "0 ms"]]) {
    assert.equal(span(ms), text);
  }
  for (const [ms, text] of [[30_000, "30 s"], [1_500, "1.5 s"], [300_000, "5 m"], [7_200_000, "2 h"], [100, "100 ms"]]) {
    assert.equal(length(ms), text);
  }
});

test("sizes have three digits", () => {
  for (const [bytes, text] of [[0, "0 B"], [999, "999 B"], [1_000, "1 kB"], [999_499, "999 kB"], [999_500, "1 MB"],
    [1_234_567_890, "1.23 GB"], [5e12, "5 TB"], [2e18, "2000 PB"]]) {
    assert.equal(size(bytes), text);
  }
});

test("a link keeps every name", () => {
  for (const name of ["a/b:c", "100%", "a b+c", "#?&=", "\u202e"]) {
    const [, search] = link("lock", { name }).split(/\?(.*)/s);
    assert.equal(new URLSearchParams(search).get("name"), name);
  }
  assert.equal(link("locks", { prefix: "", owner: undefined }), "#/locks");
});
