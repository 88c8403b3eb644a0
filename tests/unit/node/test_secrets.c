/* test_secrets.c - the engine's key and the node's token are gone from memory that is freed. */
#include <criterion/criterion.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/io/loop.h"
#include "base/secure/secret.h"
#include "node/engine/engine.h"
#include "node/options.h"
#include "proto/drover_common.pb-c.h"
#include "tests/unit/freed.h"

#define KEY "sk-engine-0123456789-abcdef"

void __real_curl_slist_free_all(struct curl_slist *list);
void __wrap_curl_slist_free_all(struct curl_slist *list);

/* libcurl's own free() is not wrapped, so its lists are looked at before it frees them. */
void __wrap_curl_slist_free_all(struct curl_slist *list)
{
    for (struct curl_slist *item = list; freed_secret != NULL && item != NULL;
         item = item->next)
        if (strstr(item->data, freed_secret) != NULL)
            freed_with_secret++;
    __real_curl_slist_free_all(list);
}

static void on_head(void *data, unsigned status, const char *content_type, bool encoded,
                    const struct engine_header *headers, size_t count)
{
    (void)data;
    (void)status;
    (void)content_type;
    (void)encoded;
    (void)headers;
    (void)count;
}

static void on_body(void *data, const uint8_t *bytes, size_t n)
{
    (void)data;
    (void)bytes;
    (void)n;
}

static void on_end(void *data, enum engine_end end, const char *why)
{
    (void)data;
    (void)end;
    (void)why;
}

static const struct engine_events events = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end};

static void write_file(char *path, const char *text)
{
    int fd = mkstemp(path);

    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
}

Test(secrets, an_engine_that_is_destroyed_leaves_no_key_behind)
{
    char path[] = "/tmp/drover-key-XXXXXX";
    struct engine_request request = {.operation =
                                         DROVER__V1__OPERATION__OPERATION_CHAT_COMPLETIONS,
                                     .content_type = "application/json",
                                     .body = (const uint8_t *)"{}",
                                     .body_len = 2,
                                     .id = "r1"};
    struct engine_config config = {.url = "http://127.0.0.1:9", .key_file = path};
    struct engine_run *run;
    struct engine *engine;
    struct error err = {0};
    struct loop loop;

    write_file(path, KEY "\n");
    cr_assert_eq(loop_init(&loop, &err), 0);
    cr_assert_eq(engine_create(&engine, &loop, &config, &err), 0, "%s", err.text);
    cr_assert_eq(engine_start(engine, &run, &request, &events, NULL, &err), 0);
    freed_secret = KEY;
    engine_destroy(engine);
    freed_secret = NULL;
    cr_assert_eq(freed_with_secret, 0, "%u blocks were freed with the key in them",
                 freed_with_secret);
    loop_finish(&loop);
    (void)unlink(path);
}

Test(secrets, a_key_that_is_refused_is_not_shown_and_not_kept)
{
    char path[] = "/tmp/drover-key-XXXXXX";
    struct engine_config config = {.url = "http://127.0.0.1:9", .key_file = path};
    struct engine *engine;
    struct error err = {0};
    struct loop loop;

    write_file(path, KEY "\x01\n");
    cr_assert_eq(loop_init(&loop, &err), 0);
    freed_secret = KEY;
    cr_assert_eq(engine_create(&engine, &loop, &config, &err), DRV_EINVAL);
    freed_secret = NULL;
    cr_assert_eq(freed_with_secret, 0);
    cr_assert_null(strstr(err.text, KEY), "the error shows the key: %s", err.text);
    loop_finish(&loop);
    (void)unlink(path);
}

static int read_secret(const char *contents, char *text, size_t cap, struct error *err)
{
    char path[] = "/tmp/drover-key-XXXXXX";
    int rc;

    write_file(path, contents);
    rc = secret_read(text, cap, path, err);
    (void)unlink(path);
    return rc;
}

Test(secrets, a_file_that_does_not_fit_is_refused_and_nothing_of_it_stays)
{
    static const char zeros[sizeof(KEY)];
    struct error err = {0};
    char text[sizeof(KEY)];

    cr_assert_eq(read_secret(KEY, text, sizeof(KEY), &err), 0);
    cr_assert_str_eq(text, KEY);
    cr_assert_eq(read_secret(KEY "\n", text, sizeof(KEY), &err), DRV_EINVAL);
    cr_assert_arr_eq(text, zeros, sizeof(KEY));
}
