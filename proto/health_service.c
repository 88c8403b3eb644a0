/* health_service.c - see health_service.h. */
#include "proto/health_service.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "base/error.h"
#include "proto/grpc_health_v1.pb-c.h"
#include "proto/wire.h"

#define MAX_NAMES      16
#define MAX_NAME_BYTES 128

struct watcher {
    struct health_service *service;
    struct server_call *call;
    char name[MAX_NAME_BYTES]; /* set once the request is in */
    bool watching;             /* it is */
    int last;                  /* the status last sent; -1 = none */
    LIST_ENTRY(watcher) link;  /* in service->watchers */
};

struct health_service {
    struct {
        char name[MAX_NAME_BYTES];
        bool serving;
    } entries[MAX_NAMES];
    unsigned count;
    LIST_HEAD(, watcher) watchers;
    struct wire_arena arena;
};

int health_service_create(struct health_service **out, struct error *err)
{
    *out = calloc(1, sizeof(**out));
    if (*out == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    LIST_INIT(&(*out)->watchers);
    wire_arena_init(&(*out)->arena);
    return 0;
}

void health_service_destroy(struct health_service *service)
{
    if (service == NULL)
        return;
    wire_arena_finish(&service->arena);
    free(service);
}

static Grpc__Health__V1__HealthCheckResponse__ServingStatus
status_of(const struct health_service *service, const char *name)
{
    unsigned i;

    for (i = 0; i < service->count; i++)
        if (strcmp(service->entries[i].name, name) == 0)
            return service->entries[i].serving
                       ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                       : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
    return GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
}

static int answer(struct server_call *call,
                  Grpc__Health__V1__HealthCheckResponse__ServingStatus status)
{
    Grpc__Health__V1__HealthCheckResponse response =
        GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    response.status = status;
    return server_call_send(call, &response.base);
}

/* The name asked for, or NULL after ending the call. */
static const char *read_request(struct health_service *service, struct server_call *call,
                                const uint8_t *message, size_t n)
{
    ProtobufCMessage *base = wire_unpack(&grpc__health__v1__health_check_request__descriptor,
                                         &service->arena, message, n, NULL);
    const char *name;

    if (base == NULL) {
        server_call_finish(call, GRPC_INTERNAL, "malformed HealthCheckRequest");
        return NULL;
    }
    name = ((Grpc__Health__V1__HealthCheckRequest *)(void *)base)->service;
    if (strlen(name) >= MAX_NAME_BYTES) {
        server_call_finish(call, GRPC_INVALID_ARGUMENT, "service name too long");
        return NULL;
    }
    return name;
}

/* ---- Check ---------------------------------------------------------------------------- */

static void check_start(struct server_call *call, void *method_data)
{
    server_call_set_data(call, method_data);
}

static void check_message(struct server_call *call, const uint8_t *message, size_t n)
{
    struct health_service *service = server_call_data(call);
    const char *name = read_request(service, call, message, n);
    Grpc__Health__V1__HealthCheckResponse__ServingStatus status;

    if (name == NULL)
        return;
    status = status_of(service, name);
    if (status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN)
        server_call_finish(call, GRPC_NOT_FOUND, "no such service");
    else if (answer(call, status) == 0)
        server_call_finish(call, GRPC_OK, NULL);
    else
        server_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
}

static void check_gone(struct server_call *call)
{
    (void)call;
}

static const struct server_handler check_handler = {
    .on_start = check_start,
    .on_message = check_message,
    .on_gone = check_gone,
};

/* ---- Watch ---------------------------------------------------------------------------- */

static void watch_start_call(struct server_call *call, void *method_data)
{
    struct health_service *service = method_data;
    struct watcher *watcher = calloc(1, sizeof(*watcher));

    server_call_set_data(call, watcher);
    if (watcher == NULL) {
        server_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    watcher->service = service;
    watcher->call = call;
    watcher->last = -1;
    LIST_INSERT_HEAD(&service->watchers, watcher, link);
}

static void send_status(struct watcher *watcher)
{
    Grpc__Health__V1__HealthCheckResponse__ServingStatus status;

    if (!watcher->watching)
        return;
    status = status_of(watcher->service, watcher->name);
    if ((int)status != watcher->last && answer(watcher->call, status) == 0)
        watcher->last = (int)status;
}

static void watch_message(struct server_call *call, const uint8_t *message, size_t n)
{
    struct watcher *watcher = server_call_data(call);
    const char *name = read_request(watcher->service, call, message, n);

    if (name == NULL)
        return;
    (void)strlcpy(watcher->name, name, sizeof(watcher->name));
    watcher->watching = true;
    send_status(watcher);
}

static void watch_gone(struct server_call *call)
{
    struct watcher *watcher = server_call_data(call);

    if (watcher == NULL)
        return;
    LIST_REMOVE(watcher, link);
    free(watcher);
}

static const struct server_handler watch_handler = {
    .on_start = watch_start_call,
    .on_message = watch_message,
    .on_gone = watch_gone,
    .on_closed = watch_gone,
};

/* ---- health_service.h
 * ------------------------------------------------------------------------- */

void health_service_set(struct health_service *service, const char *name, bool serving)
{
    struct watcher *watcher;
    unsigned i;

    for (i = 0; i < service->count; i++)
        if (strcmp(service->entries[i].name, name) == 0)
            break;
    if (i == service->count) {
        if (i == MAX_NAMES || strlen(name) >= MAX_NAME_BYTES)
            return;
        (void)strlcpy(service->entries[i].name, name, sizeof(service->entries[i].name));
        service->count++;
    }
    service->entries[i].serving = serving;
    LIST_FOREACH(watcher, &service->watchers, link)
        if (strcmp(watcher->name, name) == 0)
            send_status(watcher);
}

void health_service_methods(struct health_service *service, struct server_method out[2])
{
    out[0] = (struct server_method){.path = "/grpc.health.v1.Health/Check",
                                    .handler = &check_handler,
                                    .max_message_bytes = 4096,
                                    .data = service};
    out[1] = (struct server_method){.path = "/grpc.health.v1.Health/Watch",
                                    .handler = &watch_handler,
                                    .max_message_bytes = 4096,
                                    .data = service};
}
