// What the two halves of the Unix socket's listener share: listener.c is moved by the loop, listener-calls.c by JavaScript.
#ifndef WEFT_LISTENER_H
#define WEFT_LISTENER_H

#include "weft.h"

#include <time.h>

struct uv_poll_s;
// UV_POLL of uv.h; its name is checked before it is used.
#define LISTENER_POLL_TYPE 8

#define MOST_CONNECTIONS 4096
#define DRAIN_ROOM (64u << 10)

struct connection {
  struct listener *listener;
  struct uv_poll_s *poll; // NULL before the loop has to wait for anything: most calls are answered in the turn that brings them
  int fd;
  int64_t id;
  time_t since;
  char *rest; // of an answer that did not fit the socket's buffer
  size_t rest_length, rest_sent;
};

struct listener {
  const void *tag;
  napi_env env;
  struct uv_loop_s *loop;
  napi_async_context context;
  napi_ref callback, receiver, room;
  napi_async_cleanup_hook_handle hook;
  struct uv_poll_s *poll;
  int fd; // -1: not listening any more
  bool open;
  bool paused;
  // What still refers to this memory: the JavaScript handle, libuv's handles, calls under way.
  size_t holders;
  size_t polls;
  size_t count, most;
  int64_t next;
  struct connection *connections[MOST_CONNECTIONS]; // by id modulo their number
  uint8_t *received; // the memory behind `room`
  size_t received_room;
  uint8_t drained[DRAIN_ROOM];
};

time_t listener_seconds(void);
// The connection of this number; NULL when it is over.
struct connection *listener_find(struct listener *listener, int64_t id);
// Closes a connection; nobody is told.
void listener_drop(struct connection *connection);
// Sends and closes; what does not fit leaves later. False in that case. bytes are malloc'd (NULL: none to be had), and freed here.
bool listener_send(struct connection *connection, char *bytes, size_t length);
// Makes libuv's handle for a listening descriptor and waits for connections. Returns 0 or an errno.
int listener_begin(struct listener *listener);
void listener_watch(struct listener *listener);
void listener_stop_accepting(struct listener *listener);
// Closes everything at once, as far as anybody outside can tell.
void listener_shut(struct listener *listener);
void listener_release(struct listener *listener);

#endif
