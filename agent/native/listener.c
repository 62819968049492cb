// A listening Unix stream socket in Node's own event loop, without Node's streams: a connection is accepted, its first bytes are received
// and handed to JavaScript in one go, and an answer leaves by one send. `net` does the same in five turns of the loop and ten times the code,
// which a process that has gone cold pays for in cache misses (docs/decisions/202).
//
//   readable ──> accept, recv ──> callback(connection, length) ┄┄> listenerAnswer: send, close
//                readable ──> recv ──> callback(connection, length; null: the peer is gone)
//                                                             writable ──> the rest of an answer, close ──> callback(connection, null)
//
// Nothing waits for JavaScript here: what it has not taken stays in the sockets' own buffers. What was received is in one Buffer of JavaScript's
// until the callback returns: a Buffer for each receive costs as much as the receive. Of libuv only functions are used that have not
// changed since 1.19; its header is not needed, because a handle's size is asked for.
#include "listener.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct uv_poll_s;
typedef void (*poll_callback)(struct uv_poll_s *handle, int status, int events);
typedef void (*close_callback)(struct uv_poll_s *handle);
extern int uv_poll_init(struct uv_loop_s *loop, struct uv_poll_s *handle, int fd);
extern int uv_poll_start(struct uv_poll_s *handle, int events, poll_callback callback);
extern int uv_poll_stop(struct uv_poll_s *handle);
extern void uv_close(struct uv_poll_s *handle, close_callback callback);
extern size_t uv_handle_size(int type);
extern void uv_handle_set_data(struct uv_poll_s *handle, void *data);
extern void *uv_handle_get_data(const struct uv_poll_s *handle);
#define UV_READABLE 1
#define UV_WRITABLE 2

// Connections taken in one turn of the loop: what else waits there has its turn too.
#define MOST_ACCEPTS 32
// Unread bytes that are still taken at the end, so that a peer in the middle of sending sees the answer, not a reset connection.
#define MOST_DRAINS 16

time_t listener_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec;
}

void listener_release(struct listener *listener) {
  if (--listener->holders == 0) free(listener);
}

// The environment may go once nothing of libuv's is left.
static void leave_teardown(struct listener *listener) {
  if (listener->open || listener->polls > 0 || listener->hook == NULL) return;
  napi_remove_async_cleanup_hook(listener->hook);
  listener->hook = NULL;
}

static void poll_closed(struct uv_poll_s *poll) {
  struct listener *listener = uv_handle_get_data(poll);
  free(poll);
  listener->polls--;
  leave_teardown(listener);
  listener_release(listener);
}

static struct uv_poll_s *new_poll(struct listener *listener, int fd, int *error) {
  struct uv_poll_s *poll = malloc(uv_handle_size(LISTENER_POLL_TYPE));
  *error = poll == NULL ? ENOMEM : -uv_poll_init(listener->loop, poll, fd);
  if (*error != 0) {
    free(poll);
    return NULL;
  }
  listener->holders++;
  listener->polls++;
  return poll;
}

static void end_poll(struct listener *listener, struct uv_poll_s *poll) {
  uv_poll_stop(poll);
  uv_handle_set_data(poll, listener);
  uv_close(poll, poll_closed);
}

void listener_drop(struct connection *connection) {
  struct listener *listener = connection->listener;
  listener->connections[connection->id % MOST_CONNECTIONS] = NULL;
  listener->count--;
  if (connection->poll != NULL) end_poll(listener, connection->poll);
  close(connection->fd);
  free(connection->rest);
  free(connection);
  if (listener->paused && listener->count == listener->most - 1) listener_watch(listener);
}

struct connection *listener_find(struct listener *listener, int64_t id) {
  struct connection *connection = id < 0 ? NULL : listener->connections[id % MOST_CONNECTIONS];
  return connection != NULL && connection->id == id ? connection : NULL;
}

// callback(connection, number | null): how many bytes have been received, the peer is gone, or, with connection -1, an errno. The listener
// and its connections may be gone afterwards; its memory is not.
static void tell(struct listener *listener, int64_t id, int64_t number) {
  napi_env env = listener->env;
  napi_handle_scope scope;
  if (!listener->open || napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value callback, receiver, arguments[2];
  napi_get_reference_value(env, listener->callback, &callback);
  napi_get_reference_value(env, listener->receiver, &receiver);
  napi_create_int64(env, id, &arguments[0]);
  if (number > 0)
    napi_create_int64(env, number, &arguments[1]);
  else
    napi_get_null(env, &arguments[1]);
  if (napi_make_callback(env, listener->context, receiver, callback, 2, arguments, NULL) == napi_pending_exception) {
    napi_value thrown;
    napi_get_and_clear_last_exception(env, &thrown);
    napi_fatal_exception(env, thrown);
  }
  napi_close_handle_scope(env, scope);
}

static void drop_and_tell(struct connection *connection) {
  struct listener *listener = connection->listener;
  int64_t id = connection->id;
  listener_drop(connection);
  tell(listener, id, 0);
}

// One receive. False when there was nothing. Handing over may end the connection.
static bool receive(struct connection *connection) {
  struct listener *listener = connection->listener;
  ssize_t got;
  do got = recv(connection->fd, listener->received, listener->received_room, MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  if (got < 0 && errno == EAGAIN) return false;
  if (got <= 0)
    drop_and_tell(connection);
  else
    tell(listener, connection->id, got);
  return true;
}

// Sends what there is to send. 1: all of it is gone, 0: the peer must read first, -1: the peer is gone.
static int send_some(int fd, const char *bytes, size_t length, size_t *sent) {
  while (*sent < length) {
    ssize_t done = send(fd, bytes + *sent, length - *sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return errno == EAGAIN ? 0 : -1;
    *sent += (size_t)done;
  }
  return 1;
}

static void drain(struct connection *connection) {
  struct listener *listener = connection->listener;
  for (int i = 0; i < MOST_DRAINS; i++)
    if (recv(connection->fd, listener->drained, sizeof listener->drained, MSG_DONTWAIT) <= 0) break;
}

static void on_connection(struct uv_poll_s *poll, int status, int events) {
  struct connection *connection = uv_handle_get_data(poll);
  struct listener *listener = connection->listener;
  int64_t id = connection->id;
  listener->holders++;
  if (status < 0) {
    drop_and_tell(connection);
  } else {
    if (events & UV_READABLE) receive(connection);
    connection = listener_find(listener, id);
    if ((events & UV_WRITABLE) && connection != NULL && connection->rest != NULL) {
      int done = send_some(connection->fd, connection->rest, connection->rest_length, &connection->rest_sent);
      if (done > 0) drain(connection);
      if (done != 0) drop_and_tell(connection);
    }
  }
  listener_release(listener);
}

// Has the loop wait for the connection. False with the errno that speaks against it.
static bool follow(struct connection *connection, int events, int *error) {
  if (connection->poll == NULL) {
    connection->poll = new_poll(connection->listener, connection->fd, error);
    if (connection->poll == NULL) return false;
    uv_handle_set_data(connection->poll, connection);
  }
  uv_poll_start(connection->poll, events, on_connection);
  return true;
}

// The new connection, or NULL without memory; fd is closed then.
static struct connection *admit(struct listener *listener, int fd) {
  struct connection *connection = calloc(1, sizeof *connection);
  if (connection == NULL) {
    close(fd);
    return NULL;
  }
  while (listener->connections[listener->next % MOST_CONNECTIONS] != NULL) listener->next++;
  connection->listener = listener;
  connection->fd = fd;
  connection->id = listener->next++;
  connection->since = listener_seconds();
  listener->connections[connection->id % MOST_CONNECTIONS] = connection;
  listener->count++;
  return connection;
}

static void pause_accepting(struct listener *listener, int error) {
  uv_poll_stop(listener->poll);
  listener->paused = true;
  // A full table goes on by itself when a connection ends, everything else when JavaScript says so.
  if (error != 0) tell(listener, -1, error);
}

static void on_listening(struct uv_poll_s *poll, int status, int events) {
  struct listener *listener = uv_handle_get_data(poll);
  (void)events;
  listener->holders++;
  int error = status < 0 ? -status : 0;
  for (int i = 0; i < MOST_ACCEPTS && error == 0 && listener->fd >= 0; i++) {
    if (listener->count == listener->most) {
      pause_accepting(listener, 0);
      break;
    }
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (errno == EAGAIN) break;
      if (errno != EINTR && errno != ECONNABORTED) error = errno;
      continue;
    }
    struct connection *connection = admit(listener, fd);
    if (connection == NULL) {
      error = ENOMEM;
      break;
    }
    int64_t id = connection->id;
    receive(connection);
    connection = listener_find(listener, id);
    if (connection != NULL && connection->poll == NULL && !follow(connection, UV_READABLE, &error)) drop_and_tell(connection);
  }
  if (error != 0 && listener->fd >= 0) pause_accepting(listener, error);
  listener_release(listener);
}

void listener_watch(struct listener *listener) {
  if (listener->fd < 0) return;
  listener->paused = false;
  uv_poll_start(listener->poll, UV_READABLE, on_listening);
}

void listener_stop_accepting(struct listener *listener) {
  if (listener->fd < 0) return;
  end_poll(listener, listener->poll);
  close(listener->fd);
  listener->fd = -1;
}

void listener_shut(struct listener *listener) {
  if (!listener->open) return;
  listener->holders++;
  listener_stop_accepting(listener);
  listener->open = false;
  for (size_t i = 0; i < MOST_CONNECTIONS; i++)
    if (listener->connections[i] != NULL) listener_drop(listener->connections[i]);
  napi_delete_reference(listener->env, listener->callback);
  napi_delete_reference(listener->env, listener->receiver);
  napi_delete_reference(listener->env, listener->room);
  napi_async_destroy(listener->env, listener->context);
  leave_teardown(listener);
  listener_release(listener);
}

int listener_begin(struct listener *listener) {
  int error;
  listener->poll = new_poll(listener, listener->fd, &error);
  if (listener->poll == NULL) return error;
  uv_handle_set_data(listener->poll, listener);
  listener_watch(listener);
  return 0;
}

bool listener_send(struct connection *connection, char *bytes, size_t length) {
  size_t sent = 0;
  int error, done = bytes == NULL ? -1 : send_some(connection->fd, bytes, length, &sent);
  if (done > 0) drain(connection);
  if (done == 0 && follow(connection, UV_READABLE | UV_WRITABLE, &error)) {
    connection->rest = bytes;
    connection->rest_length = length;
    connection->rest_sent = sent;
    return false;
  }
  free(bytes);
  listener_drop(connection);
  return true;
}
