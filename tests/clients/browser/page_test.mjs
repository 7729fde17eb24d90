// Looks at the page at / of Flowgate's HTTP port in Chromium, while work is submitted and a provider paused over gRPC.
// Prints one line for each step and exits 1 at the first mismatch. Expects a simulated provider `sim` with a limit of 3.
//
//     node page_test.mjs GRPC_HOST:PORT HTTP_HOST:PORT
//
// When it says "now stop the server" and "now start the server", whoever started it does so, and writes a line with the
// two addresses of the new one to stdin.
//
// FLOWGATE_TEST_NODE_MODULES names the node_modules folder; by default target/test-tools/node/node_modules.
// FLOWGATE_TEST_CHROMIUM names the browser; by default `chromium` in /usr/bin.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createRequire } from "node:module";
import net from "node:net";
import path from "node:path";
import readline from "node:readline";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const modules =
  process.env.FLOWGATE_TEST_NODE_MODULES ?? path.join(here, "../../../target/test-tools/node/node_modules");
const require = createRequire(path.join(modules, "package.json"));
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const { chromium } = require("playwright-core");

const DEADLINE_MS = 20_000;
const PHONE = { width: 390, height: 844 };
const HOSTILE = `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`;

let [grpcAddress, httpAddress] = process.argv.slice(2);
if (!httpAddress) {
  console.error("usage: page_test.mjs GRPC_HOST:PORT HTTP_HOST:PORT");
  process.exit(2);
}
const orders = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// --- the server --------------------------------------------------------------------------------------------------

function clients() {
  const files = ["flowgate/v1/execution_service.proto", "flowgate/v1/provider_service.proto"];
  const shape = { keepCase: true, longs: Number, enums: String, includeDirs: [path.join(here, "../../../proto")] };
  const { v1 } = grpc.loadPackageDefinition(loader.loadSync(files, shape)).flowgate;
  const credentials = grpc.credentials.createInsecure();
  return {
    executions: new v1.ExecutionService(grpcAddress, credentials),
    providers: new v1.ProviderService(grpcAddress, credentials),
  };
}

async function call(service, rpc, request) {
  const client = clients()[service];
  try {
    return await new Promise((resolve, reject) => {
      const deadline = Date.now() + DEADLINE_MS;
      client[rpc](request, { deadline }, (error, reply) => (error ? reject(error) : resolve(reply)));
    });
  } finally {
    client.close();
  }
}

/** A port of its own that leads to the server, wherever that is, so that the page's address outlives it. */
async function door() {
  const listener = net.createServer((visitor) => {
    const [host, port] = httpAddress.split(":");
    const server = net.connect(Number(port), host);
    for (const [from, to] of [[visitor, server], [server, visitor]]) {
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroy());
      from.pipe(to);
    }
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  return listener;
}

// --- the page ----------------------------------------------------------------------------------------------------

const provider = (field) => `#providers tr[data-key="sim"] [data-field="${field}"]`;

/** Waits until the text of an element is as wanted: the document tells of its changes. */
async function shows(page, selector, wanted) {
  const wait = ([selector, source]) => new RegExp(source).test(document.querySelector(selector)?.textContent ?? "");
  try {
    await page.waitForFunction(wait, [selector, wanted.source], { polling: "raf", timeout: DEADLINE_MS });
  } catch (error) {
    const found = await page.evaluate((selector) => document.querySelector(selector)?.textContent, selector);
    assert.fail(`${selector} shows ${JSON.stringify(found)}, not ${wanted}: ${error.message}`);
  }
}

/** A page that tells of everything that goes wrong in it. */
async function open(browser, url, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.troubles = [];
  page.on("console", (message) => page.troubles.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => page.troubles.push(`thrown: ${error.message}`));
  page.on("dialog", (dialog) => page.troubles.push(`dialog: ${dialog.message()}`));
  page.on("request", (request) => {
    // The icon is part of the document.
    const own = request.url().startsWith(url) || request.url().startsWith("data:");
    if (!own) page.troubles.push(`asked elsewhere: ${request.url()}`);
  });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) =>
      console.error(`the policy was violated: ${event.violatedDirective} ${event.blockedURI}`),
    );
  });
  const response = await page.goto(url);
  assert.equal(response.status(), 200);
  return page;
}

/** How far the document is wider than the window. */
const overflow = (page) =>
  page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

// --- the steps ---------------------------------------------------------------------------------------------------

async function showsWhatThereIs(page) {
  assert.equal(await page.title(), "Flowgate");
  await shows(page, "#state", /^Live$/);
  await shows(page, "#age", /^as of \d+ s ago$/);
  await shows(page, provider("running"), /^0 of 3/);
  await shows(page, provider("gate"), /open/);
  await shows(page, "#workers tbody [data-field='status']", /active/);
  const table = page.getByRole("table", { name: "Providers" });
  assert.equal(await table.getByRole("rowheader", { name: "sim" }).count(), 1, "a row for those who hear the page");
}

async function followsTheWork(page) {
  const input = { fields: { duration_ms: { numberValue: 600_000 } } };
  const requests = Array.from({ length: 5 }, () => ({ provider: "sim", input }));
  await call("executions", "BatchSubmitExecutions", { requests });
  await shows(page, provider("running"), /^3 of 3/);
  await shows(page, provider("pending"), /^2$/);
  await shows(page, provider("oldest"), /^[1-9]\d* s$/);
  await shows(page, provider("why"), /^2 wait at the limit$/);
  await shows(page, "[data-of='running']", /^3$/);
  await shows(page, "[data-of='scaling']", /provider sim is at its limit of 3/);
}

async function showsHostileWordsAsText(page) {
  await call("providers", "PauseProvider", { provider: "sim", reason: HOSTILE });
  await shows(page, provider("gate"), /PAUSED/);
  const shown = await page.locator(provider("why")).textContent();
  assert.ok(shown.includes(`Paused: ${HOSTILE}`), shown);
  assert.equal(await page.locator("main img, main script").count(), 0, "elements made of words");
  assert.equal(await page.title(), "Flowgate", "the title");
}

/** In a page of its own, which is to complain. */
async function keepsToThePolicy(browser, url) {
  const page = await open(browser, url);
  const told = page.waitForEvent("console", (message) => message.text().includes("the policy was violated: connect-src"));
  const ran = await page.evaluate(async () => {
    const refused = (run) => {
      try {
        run();
        return false;
      } catch {
        return true;
      }
    };
    return [
      refused(() => (document.createElement("p").innerHTML = "<b>x</b>")),
      await fetch("https://flowgate.invalid/").then(() => false, () => true),
    ];
  });
  assert.deepEqual(ran, [true, true], "what the policy refuses");
  await told;
  await page.context().close();
}

async function livesThroughARestart(page) {
  console.log("now stop the server");
  await shows(page, "#state", /^Connection lost, trying again$/);
  await shows(page, "#age", /^as of \d+ s ago$/);
  await shows(page, provider("gate"), /PAUSED/);
  assert.notEqual(await page.title(), "Flowgate", "the title tells, too");
  console.log("now start the server");
  [grpcAddress, httpAddress] = (await orders.next()).value.split(" ");
  await shows(page, "#state", /^Live$/);
  await shows(page, provider("why"), /Paused: <img/);
  await call("providers", "ResumeProvider", { provider: "sim" });
  await shows(page, provider("gate"), /open/);
  await shows(page, provider("running"), /^3 of 3/);
}

async function step(name, run) {
  try {
    const result = await run();
    console.log(`ok ${name}`);
    return result;
  } catch (error) {
    console.error(`FAILED ${name}: ${error.stack}`);
    process.exit(1);
  }
}

const listener = await door();
const url = `http://127.0.0.1:${listener.address().port}/`;
const browser = await chromium.launch({
  executablePath: process.env.FLOWGATE_TEST_CHROMIUM ?? "/usr/bin/chromium",
  // As root there is no sandbox, and a small machine has little shared memory.
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"],
});
const page = await step("open the page", () => open(browser, url));
await step("show what there is", () => showsWhatThereIs(page));
await step("follow the work", () => followsTheWork(page));
await step("show hostile words as text", () => showsHostileWordsAsText(page));
await step("keep to the policy", () => keepsToThePolicy(browser, url));
await step("have nothing to complain of", () => assert.deepEqual(page.troubles, []));
for (const colorScheme of ["light", "dark"]) {
  await step(`fit a phone, ${colorScheme}`, async () => {
    const phone = await open(browser, url, { viewport: PHONE, colorScheme, isMobile: true, hasTouch: true });
    await shows(phone, provider("gate"), /PAUSED/);
    assert.equal(await overflow(phone), 0, "pixels to the side");
    assert.deepEqual(phone.troubles, []);
    await phone.context().close();
  });
}
await step("live through a restart", () => livesThroughARestart(page));
await step("have thrown nothing meanwhile", () => {
  // That the server was away is said by the browser itself.
  const own = page.troubles.filter((trouble) => !trouble.includes("Failed to load resource"));
  assert.deepEqual(own.filter((trouble) => !trouble.includes("net::ERR_")), []);
});
await browser.close();
listener.close();
console.log("done");
process.exit(0);
