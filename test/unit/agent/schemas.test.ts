// Our own schemas are valid JSON Schema. The agent does not look at that when it starts: the schema of schemas would be a tenth of
// what a start computes.
import { Ajv, type AnySchema } from 'ajv';
import { expect, test } from 'vitest';

import { shimRequestSchema } from '#agent/cni/request.ts';
import { settings } from '#agent/config/settings.ts';
import { statusQuery } from '#agent/observe/server.ts';
import { acceptorCallSchema, changesCallSchema, copyCallSchema, helloCallSchema } from '#agent/registry/peers/wire.ts';

const ofAllSettings = { type: 'object', properties: settings };
const schemas = {
  shimRequestSchema,
  ofAllSettings,
  statusQuery,
  acceptorCallSchema,
  changesCallSchema,
  copyCallSchema,
  helloCallSchema,
};

test.each(Object.entries(schemas))('%s', (_name, schema) => {
  const ajv = new Ajv({ logger: false });
  expect([ajv.validateSchema(schema as AnySchema), ajv.errors]).toEqual([true, null]);
});

test('what is none is found', () => {
  const ajv = new Ajv({ logger: false });
  expect(ajv.validateSchema({ type: 'objekt' })).toBe(false);
});
