// What the shim's files share: bounded text, one deadline for the whole call, one way to fail.
#ifndef WEFT_SHIM_H
#define WEFT_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// How long a whole call may take, and how long of that an absent agent is waited for. Tests build with shorter ones (-D).
#ifndef ADD_MS
#define ADD_MS 60000
#define ADD_CONNECT_MS 10000
#define DEL_MS 30000
#define CHECK_MS 10000
#define CHECK_CONNECT_MS 5000
#define STATUS_MS 2000
#define GC_MS 30000
#define GC_CONNECT_MS 10000
#endif

#define STDIN_LIMIT (1 << 20)
#define REQUEST_LIMIT (16 << 20)
#define ANSWER_LIMIT (1 << 20)

// CNI error codes, as in agent/errors.ts.
enum { CODE_ENVIRONMENT = 4, CODE_IO = 5, CODE_DECODE = 6, CODE_NETNS = 8, CODE_LATER = 11, CODE_STATUS = 50, CODE_INTERNAL = 999 };

struct text {
  char *bytes;
  size_t length, capacity;
};

void text_add(struct text *text, const void *bytes, size_t length);
void text_string(struct text *text, const char *string);
void text_number(struct text *text, unsigned long long number);
// The text as a C string.
const char *text_end(struct text *text);
// Adds a JSON string, quoted. Bytes above 0x7f pass as they are: who reads decides whether they are UTF-8.
void text_json(struct text *text, const char *bytes, size_t length);

bool write_all(int fd, const char *bytes, size_t length);
// One line on stderr, where the runtime's log picks it up.
void say(const char *line);
// The only ways to end: stdout gets one JSON document or nothing.
_Noreturn void finish(const char *json, size_t length, int status);
// Prints CNI's error JSON and ends with 1. `details` may be NULL.
_Noreturn void fail(int code, const char *message, const char *details);

// The whole call's deadline: milliseconds left, never below 0.
void deadline_start(int milliseconds);
int deadline_left(void);
int64_t now_ms(void);
void nap(int milliseconds);

enum exchange {
  EXCHANGE_ANSWERED, // status and body are set
  EXCHANGE_AWAY,     // nobody listens; errno says why
  EXCHANGE_CUT,      // the agent went away before its answer was whole
  EXCHANGE_LATE,     // the deadline passed
  EXCHANGE_GARBAGE,  // not an answer; reason is set
};

struct answer {
  int status;
  const char *body;
  size_t length;
  const char *reason;
};

// Posts the request body to the agent and reads its whole answer, within the deadline.
enum exchange exchange(const char *socket_path, const struct text *body, struct answer *answer);

// Keeps a DEL for later: written, fsynced, renamed, directory fsynced. False: errno, and *step names what failed.
bool spool_write(const char *directory, const char *name, const struct text *body, const char **step);

#endif
