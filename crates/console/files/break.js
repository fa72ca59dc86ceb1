// The dialog that ends what another holds. The reason is typed, and stays in the history of the lock.

import { h, put, told } from "./dom.js";
import { identity, post } from "./api.js";

/**
 * Asks for a reason, and breaks the lock.
 * @param {import("./api.js").Grant} grant
 * @param {() => void} broken
 */
export function askToBreak(grant, broken) {
  const who = identity().principal;
  const reason = h("textarea", { id: "reason", rows: 3, maxlength: 1024, required: true,
    placeholder: "Node 7 is gone, and its job has to start again" });
  const name = h("input", { id: "broken-by", maxlength: 256, autocomplete: "off", value: localStorage.getItem("palisade.name") ?? "" });
  const said = h("p", { class: "note red", role: "alert", hidden: true });
  const go = h("button", { class: "danger", type: "submit", disabled: true }, "Break the lock");
  const cancel = h("button", { type: "button", click: () => dialog.close() }, "Cancel");
  reason.addEventListener("input", () => { go.disabled = !reason.value.trim(); });
  const form = h("form", { method: "dialog", submit: async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    go.disabled = true;
    said.hidden = true;
    if (!who) localStorage.setItem("palisade.name", name.value);
    try {
      await post("/v1/break", { name: grant.resource_name, fencing_token: grant.fencing_token,
        reason: reason.value.trim(), broken_by: who ? "" : name.value.trim() });
      dialog.close();
      broken();
    } catch (error) {
      said.hidden = false;
      put(said, error instanceof Error ? error.message : String(error));
      go.disabled = false;
    }
  } },
    h("h2", { id: "break-title" }, "Break this lock?"),
    h("p", { class: "quote" }, told(grant.resource_name)),
    h("p", null, "It ends the hold of ", told(grant.owner_id || grant.principal, "an owner without a name"),
      ` (token ${grant.fencing_token}) at once. The holder may still be at work: only storage that compares tokens stops it.`),
    h("label", { for: "reason" }, "Reason, which the history keeps"), reason,
    who ? null : [h("label", { for: "broken-by" }, "Your name"), name],
    said, h("div", { class: "actions" }, cancel, go));
  const dialog = h("dialog", { "aria-labelledby": "break-title", close: () => dialog.remove() }, form);
  document.body.append(dialog);
  dialog.showModal();
  reason.focus();
}
