// common.cjs - what the client scripts share.  Usage of each: node NAME.cjs URL CASE [ARG...]
// A case is an async function; it throws when the client did not get what it should.
'use strict';

// A fetch that notes every exchange: status, headers and when it began (ms).
function recordingFetch() {
  const exchanges = [];
  const recorded = async (url, options) => {
    const at = performance.now();
    const response = await fetch(url, options);
    exchanges.push({ at, done: performance.now(), status: response.status, headers: response.headers });
    return response;
  };
  return { recorded, exchanges };
}

async function main(cases) {
  const [url, name, ...args] = process.argv.slice(2);
  if (!cases[name]) {
    console.error(`no case '${name}'; there are: ${Object.keys(cases).join(', ')}`);
    process.exit(2);
  }
  try {
    const result = await cases[name](url, ...args);
    console.log(JSON.stringify(result ?? null));
  } catch (error) {
    console.error(error.stack ?? String(error));
    process.exit(1);
  }
}

module.exports = { main, recordingFetch };
