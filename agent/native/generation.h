// The generation of nftables' ruleset: one number that each transaction of anybody's raises.
#ifndef WEFT_GENERATION_H
#define WEFT_GENERATION_H

#include "weft.h"

// A socket to ask it on. Returns the descriptor or -1.
int generation_open(const char *netns_path, struct failure *failure);

// True where the ruleset has another generation than *known, which is the new one then. False also where the kernel does not say.
bool generation_changed(int fd, uint32_t *known);

#endif
