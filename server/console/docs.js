// Shows /openapi.json. Everything is set as text, never as markup.
"use strict";

const SHOWN_DEPTH = 6;

function node(tag, attributes, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children.filter((child) => child != null && child !== ""));
  return made;
}

const code = (text) => node("code", {}, text);
// A description. Text between backticks becomes code.
const prose = (text) => node("span", {}, ...(text || "").split("`").map((part, index) => (index % 2 ? code(part) : part)));
const json = (value) => node("pre", { tabIndex: 0 }, JSON.stringify(value, null, 2));

// Follows a reference inside the document.
function resolve(doc, value) {
  let found = value;
  while (found && found.$ref) {
    found = found.$ref.slice(2).split("/").reduce((place, key) => place[key], doc);
  }
  return found;
}

const nameOf = (schema) => (schema.$ref ? schema.$ref.split("/").pop() : "");

// A short text for a schema, such as: string (uuid) or null, 1 … 255.
function typeText(doc, schema, depth = 0) {
  if (!schema || depth > SHOWN_DEPTH) return "any";
  const found = resolve(doc, schema);
  if (found.const !== undefined) return JSON.stringify(found.const);
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (found.discriminator) return `${nameOf(schema)} by ${found.discriminator.propertyName}`;
  const choices = found.anyOf || found.oneOf;
  if (choices) return choices.map((choice) => typeText(doc, choice, depth + 1)).join(" or ");
  if (found.type === "array") return `array of ${typeText(doc, found.items, depth + 1)}`;
  const type = [found.type].flat().filter(Boolean).join(" or ") || "any";
  const named = nameOf(schema) && found.properties ? `${nameOf(schema)} ` : "";
  return [named + type + (found.format ? ` (${found.format})` : ""), ...bounds(found)].join(", ");
}

function bounds(schema) {
  const found = [];
  const low = schema.minimum ?? schema.minLength ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.maxLength ?? schema.exclusiveMaximum;
  if (low !== undefined && high !== undefined) found.push(`${low} … ${high}`);
  else if (low !== undefined) found.push(`at least ${low}`);
  else if (high !== undefined) found.push(`at most ${high}`);
  if (schema.default !== undefined && schema.default !== null) found.push(`default ${JSON.stringify(schema.default)}`);
  return found;
}

// A table without its empty columns. The last column is prose.
function table(caption, heads, rows) {
  if (!rows.length) return "";
  const isUsed = heads.map((_, column) => rows.some((cells) => cells[column]));
  const used = (cells) => cells.filter((_, column) => isUsed[column]);
  const head = node("tr", {}, ...used(heads).map((text) => node("th", { scope: "col" }, text)));
  const cellsOf = (cells) => used([...cells.slice(0, -1), prose(cells.at(-1))]);
  const body = rows.map((cells) => node("tr", {}, ...cellsOf(cells).map((cell) => node("td", {}, cell ?? ""))));
  return node("div", { className: "wide" }, node("h3", {}, caption), node("table", {}, node("thead", {}, head), node("tbody", {}, ...body)));
}

// A union is shown by its first form.
function fieldsTable(doc, schema, caption) {
  const found = resolve(doc, schema);
  if (found.oneOf) return fieldsTable(doc, found.oneOf[0], `${caption}, for example ${nameOf(found.oneOf[0])}`);
  const required = new Set(found.required || []);
  const rows = Object.entries(found.properties || {}).map(([name, property]) => [
    code(name + (required.has(name) ? "" : "?")),
    typeText(doc, property),
    property.description || resolve(doc, property).description,
  ]);
  return table(caption, ["field", "type", "meaning"], rows);
}

function bodyPart(doc, operation) {
  if (!operation.requestBody) return "";
  const { content } = operation.requestBody;
  if (!content["application/json"]) return node("p", { className: "about" }, "Body: ", Object.keys(content).join(", "));
  const { schema } = content["application/json"];
  const found = resolve(doc, schema);
  const variants = found.oneOf || [schema];
  const examples = (found.examples || []).map(json);
  const shown = examples.length > 1 ? [node("details", {}, node("summary", {}, "Examples"), ...examples)] : examples;
  return node("div", {}, ...variants.map((variant) => variantPart(doc, variant, variants.length > 1)), ...shown);
}

// One variant of a body. With several variants, each is collapsed.
function variantPart(doc, schema, isOneOfMany) {
  const name = `Body: ${nameOf(schema)}`;
  if (!isOneOfMany) return node("div", {}, fieldsTable(doc, schema, name), ...nested(doc, schema));
  return node("details", {}, node("summary", {}, name), fieldsTable(doc, schema, ""), ...nested(doc, schema));
}

// The fields of objects inside an object.
function nested(doc, schema) {
  return Object.values(resolve(doc, schema).properties || {})
    .filter((property) => property.$ref && resolve(doc, property).properties)
    .map((property) => fieldsTable(doc, property, nameOf(property)));
}

function answerPart(doc, status, reference) {
  const answer = resolve(doc, reference);
  const content = Object.values(answer.content || {})[0] || {};
  const shown = Object.entries(content.examples || {}).flatMap(([name, example]) => [node("h3", {}, name), json(example.value)]);
  const headers = Object.keys(answer.headers || {}).join(", ");
  const media = Object.keys(answer.content || {});
  const schema = !content.schema ? "no body" : media.includes("application/json") ? typeText(doc, content.schema) : media.join(", ");
  return node("details", {}, node("summary", {}, code(status), " ", prose(answer.description)), node("p", { className: "about" }, schema, headers && ` · headers: ${headers}`), ...shown);
}

function operationPart(doc, path, method, operation) {
  const parameters = (operation.parameters || []).map((parameter) => [code(parameter.name), parameter.in, typeText(doc, parameter.schema), parameter.description]);
  const scope = (operation.security || []).flatMap((scheme) => scheme.api_key || [])[0];
  const token = scope ? `needs a token, or an API key with the scope ${scope}` : "needs a token";
  const access = operation.security && !operation.security.length ? "public" : token;
  return node(
    "details",
    { id: operation.operationId },
    node("summary", {}, node("span", { className: "method" }, method.toUpperCase()), code(path), " ", prose(operation.summary)),
    node("p", { className: "about" }, [access, ...(operation["x-aliases"] || []).map((alias) => `also at ${alias}`)].join(" · ")),
    operation.description ? node("p", {}, prose(operation.description)) : "",
    table("Parameters", ["name", "in", "type", "meaning"], parameters),
    bodyPart(doc, operation),
    node("h3", {}, "Answers"),
    ...Object.entries(operation.responses).map(([status, answer]) => answerPart(doc, status, answer)),
  );
}

function show(doc) {
  const all = Object.entries(doc.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => ({ path, method, operation })));
  const sections = doc.tags.map(({ name }) => {
    const own = all.filter(({ operation }) => operation.tags.includes(name));
    return node("section", { className: "card" }, node("h2", {}, name), ...own.map((entry) => operationPart(doc, entry.path, entry.method, entry.operation)));
  });
  const objects = ["ModelRequest", "Message", "Problem", "Session"].map((name) => fieldsTable(doc, doc.components.schemas[name], name));
  document.getElementById("content").replaceChildren(
    node("p", {}, prose(doc.info.description)),
    ...sections,
    node("section", { className: "card" }, node("h2", {}, "Objects"), ...objects),
  );
  const linked = document.getElementById(location.hash.slice(1));
  if (linked instanceof HTMLDetailsElement) {
    linked.open = true;
    linked.scrollIntoView();
  }
}

fetch("/openapi.json")
  .then((response) => response.json())
  .then(show)
  .catch((error) => {
    document.getElementById("content").replaceChildren(node("p", { className: "banner" }, `openapi.json could not be read: ${error.message}`));
  });
