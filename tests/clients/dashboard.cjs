// dashboard.cjs - the admin listener's page, its own script run over the smallest document that will do.
'use strict';
const vm = require('node:vm');
const { main } = require('./common.cjs');

class Element {
  constructor(tag) { this.tag = tag; this.children = []; this.own = ''; }
  set textContent(text) { this.own = String(text); this.children = []; }
  get textContent() { return this.own + this.children.map(child => child.textContent).join('|'); }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.own = ''; this.children = children; }
}

// The page as a person would see it after its script has looked `looks` times: text by element id.
async function show(url, looks = '1') {
  const page = await (await fetch(url + '/')).text();
  const script = page.match(/<script>([^]*)<\/script>/)[1];
  const elements = {};
  let left = Number(looks);
  await new Promise((resolve, reject) => {
    vm.runInNewContext(script, {
      document: {
        getElementById: id => (elements[id] ??= new Element(id)),
        createElement: tag => new Element(tag),
      },
      fetch: (path, options) => fetch(url + path, options),
      setTimeout: again => (--left === 0 ? resolve() : setImmediate(() => again().catch(reject))),
    });
  });
  return Object.fromEntries(Object.entries(elements).map(([id, element]) =>
    [id, id === 'nodes' ? element.children.map(row => row.textContent) : element.textContent]));
}

main({ show });
