// Requests to the server of this page, with its token.

const token = new URLSearchParams(location.search).get("token") ?? "";

// What the server refuses; `status` 0: it did not answer.
export class Refused extends Error {
  constructor(status, detail, values = {}) {
    super(detail);
    this.status = status;
    this.values = values;
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(`api/${path}`, {
      ...options, credentials: "omit", headers: { "x-mmfeat-token": token, ...(options.headers ?? {}) },
    });
  } catch {
    throw new Refused(0, "the server does not answer");
  }
  if (answer.ok) return answer;
  let values = {};
  try { values = await answer.json(); } catch { /* not of this server */ }
  throw new Refused(answer.status, values.detail ?? `the server answered ${answer.status}`, values);
}

export const getJson = async (path) => (await ask(path)).json();

export const getBlob = async (path) => (await ask(path)).blob();

export async function postJson(path, values) {
  const body = JSON.stringify(values ?? {});
  return (await ask(path, { method: "POST", body, headers: { "content-type": "application/json" } })).json();
}
