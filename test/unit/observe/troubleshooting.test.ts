// The catalogue of findings and the page made from it.
import { describe, expect, it } from 'vitest';

import { findingCatalogue } from '#agent/findings.ts';
import { troubleshootingPage } from '#agent/observe/troubleshooting.ts';

describe('findings', () => {
  it('are on the page docs/troubleshooting.md (bring it up to date with vitest -u)', async () => {
    await expect(troubleshootingPage()).toMatchFileSnapshot('../../../docs/troubleshooting.md');
  });

  it('each have words of their own for what one sees, why, and what to do', () => {
    const kinds = Object.values(findingCatalogue);
    expect(new Set(kinds.map(({ symptom }) => symptom)).size).toBe(kinds.length);
    expect(new Set(kinds.map(({ cause }) => cause)).size).toBe(kinds.length);
    for (const { symptom, cause, nextStep } of kinds) {
      for (const text of [symptom, cause, nextStep]) expect(text.length).toBeGreaterThan(15);
    }
  });
});
