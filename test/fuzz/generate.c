// Inputs for harness.c where there is no libFuzzer: seeds of every kind of call, mutated by one seeded generator.
//   generate SEED RUNS     runs that many inputs; prints the seed and, when one breaks something, leaves it in ./crash-SEED
//   generate FILE          runs that one input again
//   generate --corpus DIR  writes the seeds, for libFuzzer
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LARGEST (1 << 16)
#define ENV "CNI_CONTAINERID=c1\x1f" "CNI_NETNS=/no/netns\x1f" "CNI_IFNAME=eth0\x1f" "CNI_PATH=/opt/cni/bin\x1f" "CNI_ARGS=K8S_POD_NAME=web"
#define IN "\x1e{\"cniVersion\":\"1.1.0\",\"name\":\"weft\"}"
#define OK "\x1eHTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"code\": true}"

static const char *const seeds[] = {
    "CNI_COMMAND=ADD\x1f" ENV IN OK,     "CNI_COMMAND=DEL\x1f" ENV IN,       "CNI_COMMAND=DEL\x1f" ENV IN OK, "CNI_COMMAND=CHECK\x1f" ENV IN OK,
    "CNI_COMMAND=STATUS\x1f" IN,         "CNI_COMMAND=GC\x1f" ENV IN OK,     "CNI_COMMAND=VERSION",           "CNI_COMMAND=",
    "CNI_COMMAND=ADD\x1f" ENV "\x1e\x1eHTTP/1.1 503 X\r\ncontent-length: 22\r\n\r\n{\"code\":11,\"msg\":\"x\"} ", "",
};
static const char *const tokens[] = {"CNI_", "CNI_COMMAND=", "CNI_IFNAME=", "CNI_NETNS=/proc/self/ns/net", "../", "/", "@", "\"", "\\", "\n",
                                     "\x01", "\xff", "\xc3\xa9", "\x1e", "\x1f", "=", "HTTP/1.1 ", "200", "content-length: ", "\r\n", "\r\n\r\n",
                                     "9999999999999999999", "-1", "0", "{", "}", "{}", "chunked"};
#define COUNT(list) (sizeof(list) / sizeof(list)[0])

static uint64_t state;

static uint64_t next(uint64_t below) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return below == 0 ? 0 : state % below;
}

static size_t insert(uint8_t *input, size_t length, const void *bytes, size_t count) {
  if (length + count > LARGEST) return length;
  size_t at = next(length + 1);
  memmove(input + at + count, input + at, length - at);
  memcpy(input + at, bytes, count);
  return length + count;
}

static size_t mutate(uint8_t *input, size_t length) {
  static uint8_t copy[LARGEST];
  size_t at = next(length), count = next(next(4) == 0 ? length : 16);
  if (at + count > length) count = length - at;
  switch (next(6)) {
  case 0:
    if (length > 0) input[at] = (uint8_t)next(256);
    return length;
  case 1:
    memmove(input + at, input + at + count, length - at - count);
    return length - count;
  case 2:
    memcpy(copy, input + at, count);
    return insert(input, length, copy, count);
  case 3:
    memset(copy, (int)next(256), sizeof copy);
    return insert(input, length, copy, next(next(8) == 0 ? LARGEST / 2 : 300));
  default: {
    const char *token = tokens[next(COUNT(tokens))];
    return insert(input, length, token, strlen(token));
  }
  }
}

static int replay(const char *path) {
  static uint8_t input[LARGEST];
  FILE *file = fopen(path, "rb");
  if (file == NULL) return perror(path), 2;
  size_t length = fread(input, 1, sizeof input, file);
  fclose(file);
  return LLVMFuzzerTestOneInput(input, length);
}

static int write_corpus(const char *directory) {
  for (size_t at = 0; at < COUNT(seeds); at++) {
    char name[4096];
    snprintf(name, sizeof name, "%s/seed-%zu", directory, at);
    FILE *file = fopen(name, "wb");
    if (file == NULL || fwrite(seeds[at], 1, strlen(seeds[at]), file) != strlen(seeds[at]) || fclose(file) != 0) return perror(name), 2;
  }
  return 0;
}

int main(int count, char **words) {
  if (count == 3 && strcmp(words[1], "--corpus") == 0) return write_corpus(words[2]);
  if (count == 2) return replay(words[1]);
  if (count != 3) return fprintf(stderr, "generate SEED RUNS | generate FILE\n"), 2;
  long seed = atol(words[1]), runs = atol(words[2]);
  char name[64];
  snprintf(name, sizeof name, "crash-%ld", seed);
  state = (uint64_t)seed * 2654435769u + 1;
  for (int warm = 0; warm < 16; warm++) next(0);
  static uint8_t input[LARGEST];
  for (long run = 0; run < runs; run++) {
    const char *from = seeds[next(COUNT(seeds))];
    size_t length = strlen(from);
    memcpy(input, from, length);
    for (size_t left = next(12); left > 0; left--) length = mutate(input, length);
    FILE *file = fopen(name, "wb");
    if (file == NULL || fwrite(input, 1, length, file) != length || fclose(file) != 0) return perror(name), 2;
    LLVMFuzzerTestOneInput(input, length);
  }
  remove(name);
  printf("%ld inputs of seed %ld\n", runs, seed);
  return 0;
}
