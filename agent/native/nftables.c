// libnftables by dlopen, so that the addon builds and loads without it. One context is kept per handle: opening and closing its
// socket costs 10 ms. A context serves one call at a time; the TypeScript side queues.
#include "weft.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct nft_ctx;

struct library {
  void *handle;
  struct nft_ctx *(*ctx_new)(uint32_t flags);
  void (*ctx_free)(struct nft_ctx *);
  int (*buffer_output)(struct nft_ctx *);
  int (*buffer_error)(struct nft_ctx *);
  const char *(*output)(struct nft_ctx *);
  const char *(*error)(struct nft_ctx *);
  void (*set_flags)(struct nft_ctx *, unsigned int flags);
  int (*run)(struct nft_ctx *, const char *commands);
};

static const char nft_tag;

struct nft {
  const void *tag;
  struct library library;
  struct nft_ctx *context;
};

static bool load(struct library *library) {
  library->handle = dlopen("libnftables.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library->handle == NULL) return false;
  *(void **)&library->ctx_new = dlsym(library->handle, "nft_ctx_new");
  *(void **)&library->ctx_free = dlsym(library->handle, "nft_ctx_free");
  *(void **)&library->buffer_output = dlsym(library->handle, "nft_ctx_buffer_output");
  *(void **)&library->buffer_error = dlsym(library->handle, "nft_ctx_buffer_error");
  *(void **)&library->output = dlsym(library->handle, "nft_ctx_get_output_buffer");
  *(void **)&library->error = dlsym(library->handle, "nft_ctx_get_error_buffer");
  *(void **)&library->set_flags = dlsym(library->handle, "nft_ctx_output_set_flags");
  *(void **)&library->run = dlsym(library->handle, "nft_run_cmd_from_buffer");
  return library->ctx_new && library->ctx_free && library->buffer_output && library->buffer_error && library->output && library->error &&
         library->set_flags && library->run;
}

static void open_context(void *argument) {
  struct nft *nft = argument;
  nft->context = nft->library.ctx_new(0);
}

static void finalize_nft(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  struct nft *nft = data;
  if (nft->context != NULL) nft->library.ctx_free(nft->context);
  free(nft);
}

// nftOpen(netnsPath | null) -> handle. Throws with errno ELIBACC when libnftables.so.1 is not there.
static napi_value nft_open(napi_env env, napi_callback_info info) {
  napi_value argument, result;
  char *path;
  if (!read_arguments(env, info, 1, &argument) || !read_string(env, argument, &path)) return NULL;
  struct nft *nft = calloc(1, sizeof *nft);
  struct failure failure = {ENOMEM, "calloc"};
  bool opened = false;
  if (nft != NULL && !load(&nft->library))
    failure = (struct failure){ELIBACC, "dlopen libnftables.so.1"};
  else if (nft != NULL)
    opened = in_netns(path, open_context, nft, &failure);
  free(path);
  if (opened && (nft->context == NULL || nft->library.buffer_output(nft->context) != 0 || nft->library.buffer_error(nft->context) != 0)) {
    failure = (struct failure){EIO, "nft_ctx_new"};
    if (nft->context != NULL) nft->library.ctx_free(nft->context);
    opened = false;
  }
  if (!opened) {
    free(nft);
    return throw_failure(env, failure);
  }
  nft->tag = &nft_tag;
  napi_create_external(env, nft, finalize_nft, NULL, &result);
  return result;
}

struct run {
  struct nft *nft;
  char *commands;
  unsigned int flags;
  int code;
  char *output;
  char *error;
  napi_async_work work;
  napi_deferred deferred;
  napi_ref handle; // keeps the context from the garbage collector while a pool thread uses it
};

static void execute(struct run *run) {
  const struct library *library = &run->nft->library;
  library->set_flags(run->nft->context, run->flags);
  run->code = library->run(run->nft->context, run->commands);
  const char *output = library->output(run->nft->context);
  const char *error = library->error(run->nft->context);
  run->output = strdup(output == NULL ? "" : output);
  run->error = strdup(error == NULL ? "" : error);
}

static void set_text(napi_env env, napi_value object, const char *name, const char *text) {
  napi_value value;
  napi_create_string_utf8(env, text == NULL ? "" : text, NAPI_AUTO_LENGTH, &value);
  napi_set_named_property(env, object, name, value);
}

static napi_value run_result(napi_env env, const struct run *run) {
  napi_value result, code;
  napi_create_object(env, &result);
  napi_create_int32(env, run->code, &code);
  napi_set_named_property(env, result, "code", code);
  set_text(env, result, "output", run->output);
  set_text(env, result, "error", run->error);
  return result;
}

static void free_texts(struct run *run) {
  free(run->commands);
  free(run->output);
  free(run->error);
}

static bool read_run(napi_env env, napi_callback_info info, struct run *run, napi_value *handle) {
  napi_value arguments[3];
  int64_t flags;
  void *nft;
  *run = (struct run){0};
  if (!read_arguments(env, info, 3, arguments) || !read_external(env, arguments[0], &nft_tag, &nft) ||
      !read_int(env, arguments[2], &flags))
    return false;
  run->nft = nft;
  run->flags = (unsigned int)flags;
  *handle = arguments[0];
  if (run->nft->context == NULL) {
    throw_failure(env, (struct failure){EBADF, "nftRun"});
    return false;
  }
  if (!read_string(env, arguments[1], &run->commands)) return false;
  if (run->commands == NULL) run->commands = strdup("");
  return true;
}

// nftRun(handle, commands, outputFlags) -> { code, output, error }
static napi_value nft_run(napi_env env, napi_callback_info info) {
  struct run run;
  napi_value handle;
  if (!read_run(env, info, &run, &handle)) return NULL;
  execute(&run);
  napi_value result = run_result(env, &run);
  free_texts(&run);
  return result;
}

static void execute_run(napi_env env, void *data) {
  (void)env;
  execute(data);
}

static void complete_run(napi_env env, napi_status status, void *data) {
  struct run *run = data;
  if (status == napi_ok)
    napi_resolve_deferred(env, run->deferred, run_result(env, run));
  else
    napi_reject_deferred(env, run->deferred, failure_value(env, (struct failure){ECANCELED, "nftRunAsync"}));
  napi_delete_reference(env, run->handle);
  napi_delete_async_work(env, run->work);
  free_texts(run);
  free(run);
}

// nftRunAsync(the same) -> Promise of the same
static napi_value nft_run_async(napi_env env, napi_callback_info info) {
  struct run *run = calloc(1, sizeof *run);
  napi_value promise, name, handle;
  if (run == NULL) return throw_failure(env, (struct failure){ENOMEM, "calloc"});
  if (!read_run(env, info, run, &handle)) {
    free(run);
    return NULL;
  }
  napi_create_reference(env, handle, 1, &run->handle);
  napi_create_promise(env, &run->deferred, &promise);
  napi_create_string_utf8(env, "weft.nftables", NAPI_AUTO_LENGTH, &name);
  napi_create_async_work(env, NULL, name, execute_run, complete_run, run, &run->work);
  napi_queue_async_work(env, run->work);
  return promise;
}

// nftClose(handle): not while a run is under way.
static napi_value nft_close(napi_env env, napi_callback_info info) {
  napi_value argument;
  void *data;
  if (!read_arguments(env, info, 1, &argument) || !read_external(env, argument, &nft_tag, &data)) return NULL;
  struct nft *nft = data;
  if (nft->context != NULL) nft->library.ctx_free(nft->context);
  nft->context = NULL;
  return NULL;
}

void init_nftables(napi_env env, napi_value exports) {
  static const struct function functions[] = {
      {"nftOpen", nft_open}, {"nftRun", nft_run}, {"nftRunAsync", nft_run_async}, {"nftClose", nft_close}};
  add_functions(env, exports, functions, sizeof functions / sizeof functions[0]);
}
