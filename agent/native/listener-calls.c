// The listener as JavaScript calls it: opening, answering, ending. The rest is in listener.c.
#include "listener.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

extern const char *uv_handle_type_name(int type);

static const char listener_tag;

static void on_teardown(napi_async_cleanup_hook_handle handle, void *argument) {
  struct listener *listener = argument;
  (void)handle;
  listener_shut(listener);
}

static void finalize_handle(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  listener_shut(data);
  listener_release(data);
}

static int bound_socket(const char *path, int backlog, struct failure *failure) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (path == NULL || strlen(path) >= sizeof address.sun_path) {
    *failure = (struct failure){path == NULL ? EINVAL : ENAMETOOLONG, "bind"};
    return -1;
  }
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const char *call = "socket";
  bool good = fd >= 0;
  if (good) {
    call = "fchmod"; // before the name is there
    good = fchmod(fd, 0600) == 0;
  }
  if (good) {
    call = "bind";
    good = bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
  }
  if (good) {
    call = "listen";
    good = listen(fd, backlog) == 0;
    if (!good) unlink(path);
  }
  if (good) return fd;
  *failure = (struct failure){errno, call};
  if (fd >= 0) close(fd);
  return -1;
}

static bool start(napi_env env, struct listener *listener, napi_value callback, napi_value room) {
  napi_value name, global;
  if (napi_get_uv_event_loop(env, &listener->loop) != napi_ok || napi_get_global(env, &global) != napi_ok ||
      napi_create_string_utf8(env, "weft.listener", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_async_init(env, NULL, name, &listener->context) != napi_ok)
    return false;
  napi_create_reference(env, callback, 1, &listener->callback);
  napi_create_reference(env, global, 1, &listener->receiver);
  napi_create_reference(env, room, 1, &listener->room);
  napi_add_async_cleanup_hook(env, on_teardown, listener, &listener->hook);
  listener->open = true;
  return true;
}

// listenerOpen(path, backlog, most, callback(connection, length | null), room) -> handle. Beyond `most` connections (4096 at most) others
// wait in the backlog. What a connection sent is the first `length` bytes of `room`. Connection -1 with an errno: no connection can be taken
// (out of descriptors, of memory); none is until listenerResume.
static napi_value open_listener(napi_env env, napi_callback_info info) {
  napi_value arguments[5], result;
  int64_t backlog, most;
  char *path;
  uint8_t *received;
  size_t received_room;
  napi_valuetype type;
  if (!read_arguments(env, info, 5, arguments) || !read_int(env, arguments[1], &backlog) || !read_int(env, arguments[2], &most) ||
      !read_bytes(env, arguments[4], &received, &received_room))
    return NULL;
  if (received_room == 0 || most < 1 || most > MOST_CONNECTIONS || napi_typeof(env, arguments[3], &type) != napi_ok || type != napi_function) {
    napi_throw_type_error(env, NULL, "weft addon: a number of connections, a function and room were expected");
    return NULL;
  }
  if (!read_string(env, arguments[0], &path)) return NULL;
  struct failure failure = {ENOTSUP, "uv_poll_init"};
  const char *kind = uv_handle_type_name(LISTENER_POLL_TYPE);
  int fd = kind == NULL || strcmp(kind, "poll") != 0 ? -1 : bound_socket(path, (int)backlog, &failure);
  free(path);
  if (fd < 0) return throw_failure(env, failure);
  struct listener *listener = calloc(1, sizeof *listener);
  int error = listener == NULL ? ENOMEM : 0;
  if (error == 0) {
    *listener = (struct listener){.tag = &listener_tag, .env = env, .fd = fd, .holders = 1, .most = (size_t)most,
                                   .received = received, .received_room = received_room};
    error = start(env, listener, arguments[3], arguments[4]) ? 0 : EINVAL;
    if (error == 0) error = listener_begin(listener);
  }
  if (error != 0) {
    close(fd);
    if (listener != NULL) {
      listener->fd = -1;
      listener_shut(listener);
      listener_release(listener);
    }
    return throw_failure(env, (struct failure){error, "uv_poll_init"});
  }
  napi_create_external(env, listener, finalize_handle, NULL, &result);
  return result;
}

static bool read_connection(napi_env env, napi_value handle, napi_value number, struct listener **listener, struct connection **connection) {
  void *data;
  int64_t id;
  if (!read_external(env, handle, &listener_tag, &data) || !read_int(env, number, &id)) return false;
  *listener = data;
  *connection = listener_find(data, id);
  return true;
}

// listenerAnswer(handle, connection, text) -> whether the connection is over: all is sent, or the peer or the connection is gone. If not, the
// rest leaves as the peer reads, and null comes when it has.
static napi_value answer(napi_env env, napi_callback_info info) {
  napi_value arguments[3], result;
  struct listener *listener;
  struct connection *connection;
  size_t length;
  if (!read_arguments(env, info, 3, arguments) || !read_connection(env, arguments[0], arguments[1], &listener, &connection)) return NULL;
  if (napi_get_value_string_utf8(env, arguments[2], NULL, 0, &length) != napi_ok) {
    napi_throw_type_error(env, NULL, "weft addon: a string was expected");
    return NULL;
  }
  bool over = true;
  if (connection != NULL && connection->rest == NULL) {
    char *bytes = malloc(length + 1);
    if (bytes != NULL) napi_get_value_string_utf8(env, arguments[2], bytes, length + 1, &length);
    over = listener_send(connection, bytes, length);
  }
  napi_get_boolean(env, over, &result);
  return result;
}

// listenerDrop(handle, connection): closes it, answered or not; no callback comes of it.
static napi_value drop_connection(napi_env env, napi_callback_info info) {
  napi_value arguments[2];
  struct listener *listener;
  struct connection *connection;
  if (!read_arguments(env, info, 2, arguments) || !read_connection(env, arguments[0], arguments[1], &listener, &connection)) return NULL;
  if (connection != NULL) listener_drop(connection);
  return NULL;
}

// listenerOld(handle, seconds) -> numbers of the connections that have been there for longer.
static napi_value old_connections(napi_env env, napi_callback_info info) {
  napi_value arguments[2], result;
  void *data;
  int64_t seconds;
  if (!read_arguments(env, info, 2, arguments) || !read_external(env, arguments[0], &listener_tag, &data) ||
      !read_int(env, arguments[1], &seconds))
    return NULL;
  struct listener *listener = data;
  time_t since = listener_seconds() - (time_t)seconds;
  napi_create_array(env, &result);
  for (uint32_t i = 0, count = 0; i < MOST_CONNECTIONS; i++) {
    struct connection *connection = listener->connections[i];
    if (connection == NULL || connection->since > since) continue;
    napi_value number;
    napi_create_int64(env, connection->id, &number);
    napi_set_element(env, result, count++, number);
  }
  return result;
}

// listenerResume(handle): takes connections again after an errno was told.
static napi_value resume(napi_env env, napi_callback_info info) {
  napi_value argument;
  void *data;
  if (!read_arguments(env, info, 1, &argument) || !read_external(env, argument, &listener_tag, &data)) return NULL;
  struct listener *listener = data;
  if (listener->paused) listener_watch(listener);
  return NULL;
}

// listenerStop(handle): takes no more connections; those that are there stay.
static napi_value stop(napi_env env, napi_callback_info info) {
  napi_value argument;
  void *data;
  if (!read_arguments(env, info, 1, &argument) || !read_external(env, argument, &listener_tag, &data)) return NULL;
  listener_stop_accepting(data);
  return NULL;
}

// listenerClose(handle): ends all; nothing is called afterwards. Closing again does nothing.
static napi_value close_listener(napi_env env, napi_callback_info info) {
  napi_value argument;
  void *data;
  if (!read_arguments(env, info, 1, &argument) || !read_external(env, argument, &listener_tag, &data)) return NULL;
  listener_shut(data);
  return NULL;
}

void init_listener(napi_env env, napi_value exports) {
  static const struct function functions[] = {
      {"listenerOpen", open_listener}, {"listenerAnswer", answer}, {"listenerDrop", drop_connection}, {"listenerOld", old_connections},
      {"listenerResume", resume}, {"listenerStop", stop}, {"listenerClose", close_listener},
  };
  add_functions(env, exports, functions, sizeof functions / sizeof functions[0]);
}
