// node client.mjs PROTOS HOST:PORT SCENARIO [ARGUMENTS as JSON]: what the scenario saw, as JSON.

import * as scenarios from './scenarios.mjs';
import { Service } from './service.mjs';

const [protos, address, scenario, more = '{}'] = process.argv.slice(2);
const service = new Service(protos, address);
const seen = await scenarios[scenario](service, JSON.parse(more));
service.close();
process.stdout.write(JSON.stringify(seen));
