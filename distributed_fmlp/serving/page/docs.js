// Renders the service's own OpenAPI document; everything goes into the page as text, never as HTML.

const $ = (id) => document.getElementById(id);
let token = window.fmlpToken ?? ""; // what the page that asked for it left here
delete window.fmlpToken;

function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Text in which `words` between backquotes become code. */
function prose(text) {
  const parts = (text ?? "").split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));
  return make("p", {}, ...parts);
}

const rows = (pairs) =>
  make("table", {}, make("tbody", {}, ...pairs.map(([name, ...about]) =>
    make("tr", {}, make("th", { scope: "row" }, make("code", {}, name)), make("td", {}, ...about)))));

/** A schema as a person would write it down: names, types and bounds. */
function sketch(schema, all, depth = 0) {
  if (schema.$ref) return sketch(all[schema.$ref.split("/").pop()], all, depth);
  if (schema.allOf) return schema.allOf.map((one) => sketch(one, all, depth)).join(" and ");
  if (schema.oneOf) return schema.oneOf.map((one) => sketch(one, all, depth)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  const types = [schema.type ?? "anything"].flat();
  if (types.includes("object") && (schema.properties || schema.additionalProperties)) {
    const pad = "  ".repeat(depth + 1);
    const lines = Object.entries(schema.properties ?? {}).map(([name, inner]) => {
      const optional = (schema.required ?? []).includes(name) ? "" : "?";
      return `${pad}${name}${optional}: ${sketch(inner, all, depth + 1)}`;
    });
    if (schema.additionalProperties) {
      lines.push(`${pad}[name]: ${sketch(schema.additionalProperties, all, depth + 1)}`);
    }
    return `{\n${lines.join(",\n")}\n${"  ".repeat(depth)}}`;
  }
  if (schema.type === "array") {
    if (schema.prefixItems) return `[${schema.prefixItems.map((one) => sketch(one, all, depth)).join(", ")}]`;
    const count = schema.minItems === schema.maxItems && schema.minItems ? `${schema.minItems} x ` : "";
    return `[${count}${sketch(schema.items ?? {}, all, depth)}${count ? "" : ", …"}]`;
  }
  const bounds = "minimum" in schema || "maximum" in schema;
  const range = bounds ? ` (${schema.minimum ?? "…"} to ${schema.maximum ?? "…"})` : "";
  return (schema.format === "binary" ? "bytes" : types.join(" or ")) + range;
}

/** JSON with long lists of numbers cut short. */
const example = (value) =>
  JSON.stringify(value, null, 2).replace(/\[(\s*-?[\d.]+,){8,}[^\]]*\]/g, (list) =>
    `[${list.slice(1).trim().split(/,\s*/).slice(0, 3).join(", ")}, … ${list.split(",").length} numbers]`);

function contents(content, all) {
  return Object.entries(content ?? {}).flatMap(([type, media]) => [
    make("p", {}, make("code", {}, type)),
    media.schema?.format === "binary" ? null : make("pre", { tabIndex: 0 }, sketch(media.schema ?? {}, all)),
    ...Object.values(media.examples ?? {}).flatMap((one) => [
      make("p", { className: "muted" }, `Example: ${one.summary}`),
      make("pre", { tabIndex: 0 }, example(one.value)),
    ]),
  ]);
}

function parameterRow(parameter, all) {
  const where = `${parameter.in}${parameter.required ? ", required" : ""}: ${sketch(parameter.schema, all)}`;
  return [parameter.name, where, prose(parameter.description)];
}

function responseRow([status, response], all) {
  const types = status < 400 ? contents(response.content, all) : [];
  const headers = Object.keys(response.headers ?? {});
  const named = headers.length ? make("p", { className: "muted" }, `Headers: ${headers.join(", ")}`) : null;
  return [status, prose(response.description), named, ...types];
}

function section(title, ...children) {
  return children.length ? [make("h3", {}, title), ...children] : [];
}

function operation(path, method, described, all) {
  const parameters = (described.parameters ?? []).map((one) => parameterRow(one, all));
  const responses = Object.entries(described.responses).map((one) => responseRow(one, all));
  return make("details", { id: described.operationId },
    make("summary", {}, make("span", { className: "method" }, method.toUpperCase()),
      make("code", { className: "path" }, path), make("span", { className: "muted" }, described.summary)),
    described.description ? prose(described.description) : null,
    described.security ? make("p", { className: "muted" }, "Needs the bearer token.") : null,
    ...(parameters.length ? section("Parameters", rows(parameters)) : []),
    ...section("Body", ...contents(described.requestBody?.content, all)),
    ...section("Answers", rows(responses)));
}

function show(document_) {
  const all = document_.components.schemas;
  $("title").textContent = `${document_.info.title}: HTTP interface`;
  $("about").replaceChildren(...prose(document_.info.description).childNodes);
  const every = Object.entries(document_.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, described]) => ({ path, method, described })));
  $("contents").replaceChildren(make("ul", {}, ...every.map(({ path, method, described }) =>
    make("li", {}, make("a", { href: `#${described.operationId}` }, make("span", { className: "method" }, method.toUpperCase()), path)))));
  $("operations").replaceChildren(...document_.tags.flatMap((tag) => [
    make("h2", {}, tag.name),
    make("p", { className: "muted" }, tag.description),
    ...every.filter(({ described }) => described.tags.includes(tag.name))
      .map(({ path, method, described }) => operation(path, method, described, all)),
  ]));
  openNamed();
}

/** Opens the operation that the address names. */
function openNamed() {
  const named = location.hash && $(location.hash.slice(1));
  if (!(named instanceof HTMLDetailsElement)) return;
  named.open = true;
  named.scrollIntoView();
}

async function load() {
  $("problem").textContent = "";
  let response;
  try {
    response = await fetch("openapi.json", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  } catch {
    $("problem").textContent = "The service can't be reached. Is it still running?";
    return;
  }
  if (response.status === 401) {
    if (token) $("problem").textContent = "The service doesn't accept this token.";
    $("token-form").hidden = false;
    $("token").select();
  } else if (response.ok) {
    $("token-form").hidden = true;
    show(await response.json());
  } else {
    $("problem").textContent = `The service answered with status ${response.status}.`;
  }
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  load();
});
addEventListener("hashchange", openNamed);
load();
