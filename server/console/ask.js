// The request form: a prompt for chat, JSON for all other tasks, and a file if the task accepts one.

import { call, upload } from "./api.js";
import { element, node, say, sizeText } from "./page.js";

const CHAT = "chat-completion";
const FILE_FIELDS = {
  image: { label: "Image", article: "an", accept: "image/*" },
  audio: { label: "Recording", article: "a", accept: "audio/*,video/mp4,video/webm" },
};

let types = new Map();
let chatModels = [];
let uploaded = null; // the reference to the uploaded file: file:<id>

const chosen = () => types.get(element("model-type").value);
const isChat = () => chosen().model_type === CHAT;
// The field for a file. A chat message may contain an image.
const fileField = () => (isChat() ? "image" : Object.keys(FILE_FIELDS).find((name) => chosen().input.properties[name]));

export async function showTypes() {
  const [{ model_types: offered }, named] = await Promise.all([call("GET", "/api/models"), call("GET", "/v1/models")]);
  types = new Map(offered.map((type) => [type.model_type, type]));
  chatModels = named.data.map(({ id }) => id).filter((id) => id !== "default");
  element("model-type").replaceChildren(...[...types.keys()].map((name) => node("option", { value: name }, name.replaceAll("-", " "))));
  showType();
}

export function showType() {
  const { description, models, example } = chosen();
  element("model-type-about").textContent = description;
  const named = new Set([...models, ...(isChat() ? chatModels : [])]);
  element("models").replaceChildren(...[...named].map((value) => node("option", { value })));
  element("model").value = "";
  element("prompt-part").hidden = !isChat();
  element("prompt").required = isChat();
  element("input-part").hidden = isChat();
  element("input").value = JSON.stringify({ input_data: example.input_data, parameters: example.parameters }, null, 2);
  element("file-part").hidden = !fileField();
  element("file").accept = FILE_FIELDS[fileField()]?.accept ?? "";
  element("file-label").replaceChildren(FILE_FIELDS[fileField()]?.label ?? "", node("small", {}, isChat() ? " optional" : ""));
  clearFile();
}

function clearFile() {
  element("file").value = "";
  forgetFile();
}

function forgetFile() {
  uploaded = null;
  say("file-about", "");
  if (!isChat() && fileField()) setFile("");
}

// Uploads at once, so that the input shows what will be sent.
export async function takeFile() {
  const [file] = element("file").files;
  forgetFile();
  if (!file) return;
  say("file-about", `Uploading ${file.name}…`);
  try {
    const { id, content_type: type, size } = await upload(file);
    uploaded = `file:${id}`;
    if (!isChat()) setFile(uploaded);
    say("file-about", `Uploaded: ${type}, ${sizeText(size)}`);
  } catch (error) {
    clearFile();
    throw error;
  }
}

function readInput() {
  try {
    return JSON.parse(element("input").value);
  } catch (error) {
    throw new Error(`The input is not JSON: ${error.message}`);
  }
}

function setFile(reference) {
  const input = readInput();
  element("input").value = JSON.stringify({ ...input, input_data: { ...input.input_data, [fileField()]: reference } }, null, 2);
}

// The body of a create, from the form.
export function readForm() {
  const common = { model_type: chosen().model_type, ...(element("model").value && { model: element("model").value.trim() }) };
  if (isChat()) return { ...common, input_data: conversation(element("prompt").value) };
  const { input_data: input, parameters = {} } = readInput();
  if (fileField() && !input?.[fileField()]) {
    const { label, article } = FILE_FIELDS[fileField()];
    throw new Error(`Choose ${article} ${label.toLowerCase()} first.`);
  }
  return { ...common, input_data: input, parameters };
}

function conversation(prompt) {
  if (!uploaded) return { prompt };
  const content = [{ type: "text", text: prompt }, { type: "image_url", image_url: { url: uploaded } }];
  return { messages: [{ role: "user", content }] };
}
