// What the page asks of the service: the model's facts, and a prediction. The token lives here only.

const TRIES = 3;
let token = window.fmlpToken ?? ""; // what the page that asked for it left here
delete window.fmlpToken;

export class Refused extends Error {
  /** `status` is the HTTP status, 0 when the service wasn't reached. */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useToken(text) {
  token = text;
}

const wait = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });

function sentence(status, said) {
  const reason = said ? `: ${said}` : ".";
  if (status === 401) return token ? "The service doesn't accept this token." : "";
  if (status === 413) return `The picture is too big for the service${reason}`;
  if (status === 429 || status === 503) return "The service is busy. Try again in a moment.";
  if (status >= 500) return `The service failed${reason}`;
  return `The service refused the picture${reason}`;
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  for (let left = TRIES - 1; ; left--) {
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "The service can't be reached. Is it still running?");
    }
    const body = await response.json().catch(() => null);
    if (response.ok && body) return body;
    const after = Number(response.headers.get("Retry-After"));
    if (response.status === 503 && left > 0 && after >= 0 && after <= 5) {
      await wait(after || 0.5, options.signal);
      continue;
    }
    throw new Refused(response.status, sentence(response.status, body?.error));
  }
}

/** The address of a picture of the page's own, fetched with the token. */
export async function picture(path) {
  const response = await fetch(path, { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  return response.ok ? URL.createObjectURL(await response.blob()) : "";
}

export const model = () => ask("model");

export const predict = (blob, invert, signal) =>
  ask(`predict?show=pixels&invert=${invert}`, {
    method: "POST",
    headers: { "Content-Type": blob.type },
    body: blob,
    signal,
  });
