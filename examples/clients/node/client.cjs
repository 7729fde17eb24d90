// Submits an execution, shows its output as it comes, and cancels it on Ctrl-C.
//
//     npm install
//     node client.cjs 127.0.0.1:50051 process '{"module": "progress.py", "args": ["10"]}'
//
// The contract is read from the files in proto/ when the program starts: no generated code. `Flowgate` is all that
// another program needs. Exits 0 if the execution succeeded, and 1 if it did not.
"use strict";

const { randomUUID } = require("node:crypto");
const path = require("node:path");
const { setTimeout: sleep } = require("node:timers/promises");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const PROTO = path.join(__dirname, "../../../proto");
// 64-bit numbers as strings, so that a revision is never rounded.
const SHAPE = { keepCase: true, longs: String, enums: String, oneofs: true, includeDirs: [PROTO] };
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;

/** The rpcs of ExecutionService, with objects in the shape of the contract. */
class Flowgate {
  constructor(address) {
    const { flowgate } = grpc.loadPackageDefinition(loader.loadSync("flowgate/v1/execution_service.proto", SHAPE));
    this.client = new flowgate.v1.ExecutionService(address, grpc.credentials.createInsecure(), {
      "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    });
  }

  call(rpc, request) {
    return new Promise((resolve, reject) => {
      const options = { deadline: Date.now() + 30_000 };
      this.client[rpc](request, options, (error, reply) => (error ? reject(error) : resolve(reply)));
    });
  }

  /** Stores an execution. With a request_id, doing it again after a broken connection changes nothing. */
  async submit(provider, input, fields = {}) {
    const request = { provider, input_json: JSON.stringify(input), request_id: randomUUID(), ...fields };
    for (;;) {
      try {
        return (await this.call("SubmitExecution", request)).execution;
      } catch (error) {
        await waitIfUnavailable(error);
      }
    }
  }

  async cancel(id, reason = "") {
    return (await this.call("CancelExecution", { id, reason })).execution;
  }

  /** Every change and piece of output once and in order, from the first, until the execution has ended. */
  async *watch(id) {
    let cursor = { after_revision: "0" };
    for (;;) {
      const messages = this.client.WatchExecution({ id, include_output: true, ...cursor });
      try {
        for await (const message of messages) {
          cursor = { after_revision: message.revision, store_epoch: message.store_epoch };
          yield message;
        }
        return;
      } catch (error) {
        await waitIfUnavailable(error);
      } finally {
        messages.cancel();
      }
    }
  }

  close() {
    this.client.close();
  }
}

/** The server restarts, or another one takes over: worth trying again. Anything else is not. */
async function waitIfUnavailable(error) {
  if (error.code !== grpc.status.UNAVAILABLE) throw error;
  await sleep(1_000);
}

/** What a google.protobuf.Value says: proto-loader leaves it as it is on the wire. */
function plain(value) {
  switch (value.kind) {
    case "structValue":
      return Object.fromEntries(Object.entries(value.structValue.fields ?? {}).map(([key, v]) => [key, plain(v)]));
    case "listValue":
      return (value.listValue.values ?? []).map(plain);
    case "nullValue":
      return null;
    default:
      return value[value.kind];
  }
}

/** Prints output as it is, and changes to stderr. */
function show({ execution, output }) {
  if (output) (output.stream === "OUTPUT_STREAM_STDERR" ? process.stderr : process.stdout).write(output.text ?? output.data);
  if (execution) console.error(`-- ${execution.state} ${execution.wait_reason?.message ?? ""}`.trimEnd());
}

async function main([address, provider, input]) {
  const flowgate = new Flowgate(address);
  let execution = await flowgate.submit(provider, JSON.parse(input), { labels: { client: "node-example" } });
  const { id } = execution;
  console.error(`-- ${id}`);
  process.on("SIGINT", () => {
    flowgate.cancel(id, "interrupted by the user").catch((error) => console.error(`-- ${error.message}`));
  });
  for await (const message of flowgate.watch(id)) {
    show(message);
    execution = message.execution ?? execution;
  }
  if (execution.output) console.log(JSON.stringify(plain(execution.output)));
  if (execution.error) console.error(`-- ${execution.error.message}`);
  flowgate.close();
  return execution.state === "EXECUTION_STATE_SUCCEEDED" ? 0 : 1;
}

module.exports = { Flowgate };

if (require.main === module) {
  if (process.argv.length !== 5) {
    console.error("usage: client.cjs HOST:PORT PROVIDER INPUT");
    process.exit(2);
  }
  main(process.argv.slice(2)).then(
    (code) => process.exit(code),
    (error) => {
      console.error(`${grpc.status[error.code] ?? "ERROR"}: ${error.details ?? error.message}`);
      process.exit(1);
    },
  );
}
