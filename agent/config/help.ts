// The settings as a person reads them: `weft agent --help` and the table of docs/settings.md, both from the schema.

import { environmentName, defaultConfigPath, flagName } from '#agent/config/sources.ts';
import { allowed, settings } from '#agent/config/settings.ts';
import type { SettingSchema } from '#agent/config/settings.ts';

function defaultOf(setting: SettingSchema): string {
  if (setting.defaultText !== undefined) return setting.defaultText;
  if (Array.isArray(setting.default)) return setting.default.length === 0 ? 'none' : setting.default.join(',');
  return String(setting.default);
}

/** Text for a terminal of 100 columns. */
export function settingsHelp(): string {
  const lines = [
    'Usage: weft agent [--config FILE] [--SETTING VALUE …]',
    '',
    `Runs this node's agent. Settings come from the file (default ${defaultConfigPath}, if there),`,
    'the environment, and flags; later ones win. Lists are separated by commas.',
  ];
  let group = '';
  for (const [key, setting] of Object.entries(settings)) {
    if (setting.group !== group) lines.push('', `${setting.group}:`);
    group = setting.group;
    lines.push(`  ${flagName(key)}  (${environmentName(key)})`);
    lines.push(`      ${plain(setting.description)}`);
    lines.push(`      default: ${plain(defaultOf(setting))}`);
  }
  return `${lines.join('\n')}\n`;
}

const plain = (text: string): string => text.replaceAll('`', '');

/** docs/settings.md whole. */
export function settingsMarkdown(): string {
  const lines = [
    '# Settings',
    '',
    'Everything has a default that works. A setting can come from, each overruling the ones before it:',
    '',
    `1. the JSON file that \`--config\` or \`WEFT_CONFIG\` names (otherwise \`${defaultConfigPath}\`, if it exists): \`{"vxlanPort": 6784}\`;`,
    "2. Weave Net's environment variables, where they mean the same here;",
    '3. environment variables: `WEFT_VXLAN_PORT=6784`; empty counts as not set; lists are separated by commas;',
    '4. flags: `weft agent --vxlan-port 6784`.',
    '',
    'A value that is not allowed, or an unknown name, ends the agent with exit code 2 and a line for each mistake.',
    '',
    'This page is generated from the schema in `agent/config/settings.ts`; a test compares the two.',
  ];
  let group = '';
  for (const [key, setting] of Object.entries(settings)) {
    if (setting.group !== group) {
      lines.push(
        '',
        `## ${setting.group}`,
        '',
        '| setting | default | what it does | allowed |',
        '| --- | --- | --- | --- |',
      );
    }
    group = setting.group;
    const aliases = (setting.aliases ?? []).map((alias) => ` Weave Net: \`${alias}\`.`).join('');
    const shown = setting.defaultText ?? `\`${defaultOf(setting)}\``;
    const unit = setting.unit === undefined ? '' : ` (${setting.unit})`;
    lines.push(
      `| \`${key}\`<br>\`${environmentName(key)}\`<br>\`${flagName(key)}\` | ${shown}${unit} | ${setting.description}${aliases} | ${allowed(setting)} |`,
    );
  }
  return `${lines.join('\n')}\n`;
}
