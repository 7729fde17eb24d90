#!/usr/bin/env node
// Turns a list of orders on stdin into totals by customer on stdout, largest first.
//
// Progress goes to stderr, which is kept apart from the result.
import { stdin, stdout, stderr } from "node:process";

let text = "";
for await (const chunk of stdin) text += chunk;
const orders = JSON.parse(text);
stderr.write(`read ${orders.length} orders\n`);

const totals = new Map();
for (const { customer, cents } of orders) {
  totals.set(customer, (totals.get(customer) ?? 0) + cents);
}
const result = [...totals]
  .map(([customer, cents]) => ({ customer, cents }))
  .sort((a, b) => b.cents - a.cents);
stdout.write(JSON.stringify(result) + "\n");
