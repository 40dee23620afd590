"""Files that are too large are refused in the browser, in words, before any of them travels.

The server has limits of its own (``kit.uploads``); what it answers to an upload that is too large is no sentence.
"""

import gradio as gr

from kit.parts.markup import element
from kit.texts.labels import label
from kit.uploads import MB

# Runs for each component once it is drawn. Listening in the capture phase comes before Gradio's own upload.
CHECK_JS = """
const said = element.querySelector('[data-limit]');
const check = (event, files) => {
  if (!element.isConnected) { stop(); return; }
  if (!event.target.closest || !event.target.closest('#' + said.dataset.of)) return;
  const large = [...files].find((file) => file.size > Number(said.dataset.limit));
  said.hidden = !large;
  if (!large) return;
  event.stopImmediatePropagation();
  event.preventDefault();
  if (event.type === 'change') event.target.value = '';
  const size = Math.ceil(large.size / 1048576);
  said.textContent = said.dataset.words.replace('{name}', large.name).replace('{size}', size);
};
const chosen = (event) => event.target.files && check(event, event.target.files);
const dropped = (event) => event.dataTransfer && check(event, event.dataTransfer.files);
const stop = () => {
  document.removeEventListener('change', chosen, true);
  document.removeEventListener('drop', dropped, true);
};
document.addEventListener('change', chosen, true);
document.addEventListener('drop', dropped, true);
"""


def upload_limit(language: str, kind: str, limit: int, *, of: str) -> gr.HTML:
    """A line that says which file was refused, empty until one is.

    Args:
        language: of the words.
        kind: "picture", "video" or "weights"; the words are ``upload.<kind>``.
        limit: bytes.
        of: element id of the component that is watched.
    """
    words = label(f"upload.{kind}", language, name="{name}", size="{size}", limit=f"{limit / MB:.0f}")
    said = element(
        "p", classes="ah-line ah-bad", role="alert", hidden="", data_limit=str(limit), data_of=of, data_words=words
    )
    return gr.HTML(said, apply_default_css=False, js_on_load=CHECK_JS, elem_classes="ah-html ah-upload-limit")
