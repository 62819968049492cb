// CNI protocol versions: which are spoken, how they order, from which one on a verb exists (CNI spec 1.1.0).

/** Oldest first. The shim lists the same (cni-shim/shim.c). */
export const cniVersions = ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;

export type CniVersion = (typeof cniVersions)[number];

/** What a configuration without `cniVersion` means. */
export const impliedVersion: CniVersion = '0.1.0';
export const newestVersion: CniVersion = '1.1.0';

export function isCniVersion(text: unknown): text is CniVersion {
  return cniVersions.some((version) => version === text);
}

/** True when `version` is `least` or newer. */
export function atLeast(version: CniVersion, least: CniVersion): boolean {
  return cniVersions.indexOf(version) >= cniVersions.indexOf(least);
}
