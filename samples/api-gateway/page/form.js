// Forms: one request at a time, and an outcome in words beside it.

/** Calls `submit` for each submission, but not before the last one ended. */
export function onSubmit(form, submit) {
  const button = form.querySelector("button");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.ariaBusy === "true") return;
    form.ariaBusy = "true";
    button.setAttribute("aria-disabled", "true"); // a disabled button would lose the focus
    for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
    try {
      await submit();
    } finally {
      form.ariaBusy = "false";
      button.removeAttribute("aria-disabled");
    }
  });
}

/** Says how a submission ended. A wrong field is marked and gets the focus. */
export function outcome(form, wrongField, text, isProblem = wrongField !== null) {
  const place = form.querySelector(".outcome");
  place.textContent = text;
  place.classList.toggle("notice", isProblem);
  if (wrongField) {
    wrongField.setAttribute("aria-invalid", "true");
    wrongField.focus();
  }
}
