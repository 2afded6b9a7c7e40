// Requests to the server. Addresses are relative, because the page's own holds the token.

export class Refused extends Error {}

async function checked(response) {
  if (response.ok) return response;
  let sentence = `The server answered ${response.status}.`;
  try {
    sentence = (await response.json()).error ?? sentence;
  } catch {
    if (response.status === 403) sentence = "The address of this page is out of date; open the one that the command printed.";
  }
  throw new Refused(sentence);
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(`api/${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer; start it again with the same command.");
  }
  return checked(response);
}

export async function get(path) {
  return (await ask(path)).json();
}

export async function post(path, value) {
  const body = value === undefined ? undefined : JSON.stringify(value);
  return (await ask(path, { method: "POST", body })).json();
}

/** A picture, decoded. */
export async function picture(path) {
  return createImageBitmap(await (await ask(path)).blob());
}

/** The masks of a frame: visible ids, and the amodal mask of each object as a bit of a plane. */
export async function masks(path, pixels) {
  const response = await ask(path);
  const named = response.headers.get("X-Objects");
  const bytes = new Uint8Array(await response.arrayBuffer());
  const objects = named ? named.split(",").map(Number) : [];
  const amodal = new Map();
  objects.forEach((id, place) => {
    const start = pixels * (1 + (place >> 3));
    amodal.set(id, { plane: bytes.subarray(start, start + pixels), bit: 1 << (place & 7) });
  });
  return { ids: bytes.subarray(0, pixels), amodal };
}

/** Sends a video; `progress` gets the share that has arrived. XMLHttpRequest, for fetch tells none. */
export function upload(file, quality, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", `api/uploads/${encodeURIComponent(file.name)}?quality=${quality}`);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onerror = () => reject(new Error("The transfer broke off; drop the video again."));
    request.onload = () => {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        // Told below.
      }
      if (request.status === 200) resolve(answer);
      else reject(new Refused(answer.error ?? `The server answered ${request.status}.`));
    };
    request.send(file);
  });
}
