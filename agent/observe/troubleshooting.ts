// docs/troubleshooting.md, made from the catalogue of findings so that the two cannot differ.

import { findingCatalogue } from '#agent/findings.ts';

const intro = [
  '# Troubleshooting',
  '',
  'Start with `weft status` on the node in question: it says whether pods can start there, what it waits for, and lists findings. `weft doctor`',
  'asks more (the host itself, before and after the installation), `weft peers` shows how each peer is reached, `weft ipam` who holds which',
  'addresses. The same findings are in the log of the agent, on the status page and, counted, in the metric `weft_findings`.',
  '',
  'Below, every finding by what one sees of it. Their names stay the same from release to release.',
  '',
  'This page is generated from `agent/findings.ts`; a test compares the two.',
];

/** The page whole. */
export function troubleshootingPage(): string {
  const sections = Object.entries(findingCatalogue).flatMap(([name, { severity, symptom, cause, nextStep }]) => [
    '',
    `## ${symptom}`,
    '',
    `Finding \`${name}\` (${severity}).`,
    '',
    `- Cause: ${cause}`,
    `- Next step: ${nextStep}`,
  ]);
  return `${[...intro, ...sections].join('\n')}\n`;
}
