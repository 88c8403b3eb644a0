/*
 * routing_client.c - sends the requests of a schedule at their times, whatever comes back.
 *
 * The load side of scripts/bench-routing.  Each line of the schedule is one streamed chat
 * completion:
 *
 *     ARRIVAL_US PROMPT_TOKENS OUTPUT_TOKENS PREFIX_KEY BLOCK,BLOCK,...|-
 *
 * The load is open: a request goes out when it is due, even if all before it still wait, and
 * its times count from when it was due.  Each is on a connection of its own.
 *
 * The prompt is made so that the simulated engine counts PROMPT_TOKENS in it (four bytes a
 * token, with the role and the beginning of the answer that the engine adds) and so that its
 * n-th block of 512 tokens is a fixed pseudo-random text for the n-th BLOCK number.  Two
 * prompts with the same first block numbers therefore have the same first bytes, and whoever
 * hashes prompts has real work.  Blocks without a number are unique to the request.  Prompts of
 * half a megabyte are common, so the text is made as the socket takes it and never kept.
 *
 * One thread, one epoll set.  Output, one line a request, in order of arrival:
 *
 *     OUTCOME,STATUS,LATE_US,FIRST_US,LAST_US,END_US,EVENTS,PROMPT,CACHED,OUTPUT,NODE
 *
 * LATE_US is how late it was sent; the other times count from when it was due (0: never came).
 * EVENTS are those with content; the tokens are from the answer's usage; NODE is the value of
 * the answer's header x-drover-node, commas included (the peers are configured to set it too).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/hash.h"
#include "tests/bench/http_answer.h"

#define READ_BYTES   65536
#define WRITE_BYTES  65536
#define TOKEN_BYTES  4
#define BLOCK_BYTES  2048 /* 512 tokens */
#define EVENT_BYTES  1024 /* of one event are kept when it comes in parts */
#define EVENTS_BATCH 256

/* The engine's canonical prompt has this around our content. */
#define ROLE_TEXT "user\n"
#define TAIL_TEXT "\nassistant\n"
#define ROLE_LEN  (sizeof(ROLE_TEXT) - 1)
#define TAIL_LEN  (sizeof(TAIL_TEXT) - 1)

#define BODY_END     "\"}]}"
#define BODY_END_LEN (sizeof(BODY_END) - 1)

enum outcome {
    OUTCOME_OPEN = 0, /* not sent or not over */
    OUTCOME_OK,
    OUTCOME_STATUS, /* another status than 200 */
    OUTCOME_ERROR,  /* an error event in the stream */
    OUTCOME_CUT,    /* the connection ended before the answer did */
    OUTCOME_CONNECT,
    OUTCOME_TIMEOUT,
};

/* State that is only needed while the request is under way. */
struct conn {
    int fd;
    struct http_answer answer;
    uint32_t event_len, begin_len;
    uint64_t sent, total; /* bytes of the request */
    char begin[512];      /* head and body of the request up to the content */
    char event[EVENT_BYTES];
};

struct request {
    uint64_t due_us; /* since the beginning of the run */
    uint64_t prompt_tokens, output_tokens;
    uint64_t *blocks; /* owned */
    size_t blocks_count;
    char key[24];
    struct conn *conn; /* owned; NULL unless under way */
    enum outcome outcome;
    unsigned status;
    uint64_t late_us, first_us, last_us, end_us;
    uint64_t events, prompt, cached, output;
    char node[64];
};

struct run {
    int epoll_fd;
    struct sockaddr_in to;
    const char *model;
    struct request *requests; /* owned */
    size_t count, cap, sent, over;
    uint64_t begun_mono_us;
    uint64_t failed;
};

static void die(const char *what)
{
    fprintf(stderr, "routing_client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static const char *outcome_name(enum outcome outcome)
{
    switch (outcome) {
    case OUTCOME_OPEN:
        return "open";
    case OUTCOME_OK:
        return "ok";
    case OUTCOME_STATUS:
        return "status";
    case OUTCOME_ERROR:
        return "error";
    case OUTCOME_CUT:
        return "cut";
    case OUTCOME_CONNECT:
        return "connect";
    case OUTCOME_TIMEOUT:
        return "timeout";
    }
    return "?";
}

/* ---- the prompt ------------------------------------------------------------------------ */

static uint64_t mix(uint64_t x)
{
    return hash_spread(x + HASH_GOLDEN);
}

static size_t content_len(const struct request *r)
{
    uint64_t bytes = r->prompt_tokens * TOKEN_BYTES;

    return bytes > ROLE_LEN + TAIL_LEN ? (size_t)(bytes - ROLE_LEN - TAIL_LEN) : 1;
}

/* Writes the content from byte `at` on.  Its place in the canonical prompt is behind the role,
 * and the blocks are blocks of the canonical prompt. */
static void make_content(const struct run *run, const struct request *r, size_t at, char *out,
                         size_t n)
{
    static const char LETTERS[] =
        "etaoin shrdlu cmfwyp vbgkjqxz ETAOIN SHRDLU CMFWYP VBGKJQXZ., 01";
    _Static_assert(sizeof(LETTERS) == 64 + 1, "six bits choose a letter");
    size_t index = (size_t)(r - run->requests);
    size_t place = at + ROLE_LEN;

    while (n != 0) {
        size_t block = place / BLOCK_BYTES, word = place % BLOCK_BYTES / 8, skip = place % 8;
        uint64_t id =
            block < r->blocks_count ? r->blocks[block] : ~mix(((uint64_t)index << 20) + block);
        uint64_t bits = mix(mix(id) + word);
        size_t take = 8 - skip < n ? 8 - skip : n;

        bits >>= 8 * skip;
        for (size_t i = 0; i < take; i++, bits >>= 8)
            out[i] = LETTERS[bits & 63];
        out += take;
        place += take;
        n -= take;
    }
}

/* Writes the bytes of the request from `at` on; returns how many. */
static size_t make_bytes(const struct run *run, const struct request *r, uint64_t at, char *out,
                         size_t max)
{
    const struct conn *c = r->conn;
    size_t begin = c->begin_len, content = content_len(r), n = 0;

    while (n < max && at < c->total) {
        size_t left = max - n, take;

        if (at < begin) {
            take = begin - (size_t)at < left ? begin - (size_t)at : left;
            memcpy(out + n, c->begin + at, take);
        } else if (at < begin + content) {
            size_t from = (size_t)at - begin;
            take = content - from < left ? content - from : left;
            make_content(run, r, from, out + n, take);
        } else {
            size_t from = (size_t)at - begin - content;
            take = BODY_END_LEN - from < left ? BODY_END_LEN - from : left;
            memcpy(out + n, &BODY_END[from], take);
        }
        n += take;
        at += take;
    }
    return n;
}

static void make_begin(const struct run *run, const struct request *r)
{
    struct conn *c = r->conn;
    char body[256];
    int n, body_len = snprintf(body, sizeof(body),
                               "{\"model\":\"%s\",\"stream\":true,\"stream_options\":"
                               "{\"include_usage\":true},\"max_tokens\":%" PRIu64
                               ",\"messages\":[{\"role\":\"user\",\"content\":\"",
                               run->model, r->output_tokens);

    if (body_len < 0 || (size_t)body_len >= sizeof(body))
        die("a model's name is too long");
    n = snprintf(c->begin, sizeof(c->begin),
                 "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\n"
                 "Content-Type: application/json\r\nX-Prefix-Key: %s\r\n"
                 "Content-Length: %zu\r\n\r\n%s",
                 r->key, (size_t)body_len + content_len(r) + BODY_END_LEN, body);
    if (n < 0 || (size_t)n >= sizeof(c->begin))
        die("a model's name is too long");
    c->begin_len = (uint32_t)n;
    c->total = (uint64_t)n + content_len(r) + BODY_END_LEN;
}

/* ---- a request's life ------------------------------------------------------------------ */

static uint64_t since_due(const struct run *run, const struct request *r)
{
    return http_answer_now_us() - run->begun_mono_us - r->due_us;
}

static void end(struct run *run, struct request *r, enum outcome outcome)
{
    if (outcome != OUTCOME_OK && run->failed++ == 0)
        fprintf(stderr, "routing_client: first failure: %s, status %u\n", outcome_name(outcome),
                r->status);
    r->outcome = outcome;
    r->end_us = since_due(run, r);
    run->over++;
    if (r->conn->fd != -1)
        close(r->conn->fd);
    free(r->conn);
    r->conn = NULL;
}

static void start(struct run *run, struct request *r)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data = {.ptr = r}};
    int one = 1;

    r->late_us = since_due(run, r);
    r->conn = calloc(1, sizeof(*r->conn));
    if (!r->conn)
        die("memory");
    make_begin(run, r);
    r->conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (r->conn->fd == -1)
        die("socket");
    setsockopt(r->conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(r->conn->fd, (const struct sockaddr *)&run->to, sizeof(run->to)) == -1 &&
        errno != EINPROGRESS) {
        end(run, r, OUTCOME_CONNECT);
        return;
    }
    if (epoll_ctl(run->epoll_fd, EPOLL_CTL_ADD, r->conn->fd, &event) == -1)
        die("epoll_ctl");
}

/* Sends what the socket takes; false: the connection broke (its answer may still be there). */
static bool send_more(const struct run *run, struct request *r)
{
    static char buffer[WRITE_BYTES];
    struct conn *c = r->conn;

    while (c->sent < c->total) {
        size_t n = make_bytes(run, r, c->sent, buffer, sizeof(buffer));
        ssize_t wrote = send(c->fd, buffer, n, MSG_NOSIGNAL);

        if (wrote == -1)
            return errno == EAGAIN || errno == ENOTCONN;
        c->sent += (uint64_t)wrote;
    }
    return true;
}

/* ---- the answer ------------------------------------------------------------------------ */

static const char *find(const char *in, size_t n, const char *what)
{
    return memmem(in, n, what, strlen(what));
}

/* The number behind a name, or 0. */
static uint64_t number_after(const char *in, size_t n, const char *name)
{
    const char *p = find(in, n, name);
    uint64_t value = 0;

    if (!p)
        return 0;
    for (p += strlen(name); p < in + n && *p >= '0' && *p <= '9'; p++)
        value = value * 10 + (uint64_t)(*p - '0');
    return value;
}

/* One whole event.  Returns what it means for the request; OUTCOME_OPEN: it goes on. */
static enum outcome take_event(const struct run *run, struct request *r, const char *p,
                               size_t n)
{
    static const char CONTENT[] = "\"content\":\"";
    const char *content = find(p, n, CONTENT);

    if (content && content + sizeof(CONTENT) - 1 < p + n &&
        content[sizeof(CONTENT) - 1] != '"') {
        r->last_us = since_due(run, r);
        if (r->events++ == 0)
            r->first_us = r->last_us;
        return OUTCOME_OPEN;
    }
    if (find(p, n, "\"usage\":{")) {
        r->prompt = number_after(p, n, "\"prompt_tokens\":");
        r->output = number_after(p, n, "\"completion_tokens\":");
        r->cached = number_after(p, n, "\"cached_tokens\":");
    }
    if (find(p, n, "data: [DONE]"))
        return OUTCOME_OK;
    return find(p, n, "\"error\":") ? OUTCOME_ERROR : OUTCOME_OPEN;
}

/* Body bytes; events end with a blank line. */
static enum outcome take_body(const struct run *run, struct request *r, const char *p, size_t n)
{
    struct conn *c = r->conn;

    while (n != 0) {
        enum outcome outcome;
        const char *stop;
        size_t take;

        /* The blank line may itself come in two parts. */
        if (c->event_len != 0 && c->event[c->event_len - 1] == '\n' && *p == '\n') {
            stop = p;
            take = 1;
        } else {
            stop = find(p, n, "\n\n");
            take = stop ? (size_t)(stop - p) + 2 : n;
        }
        if (stop && c->event_len == 0) {
            outcome = take_event(run, r, p, take);
        } else {
            size_t room = sizeof(c->event) - c->event_len, keep = take < room ? take : room;

            /* Of an event that is too long, the first bytes; the last one must be kept. */
            memcpy(c->event + c->event_len, p, keep);
            c->event_len += (uint32_t)keep;
            if (keep < take)
                c->event[c->event_len - 1] = p[take - 1];
            outcome = stop ? take_event(run, r, c->event, c->event_len) : OUTCOME_OPEN;
            if (stop)
                c->event_len = 0;
        }
        if (outcome != OUTCOME_OPEN)
            return outcome;
        p += take;
        n -= take;
    }
    return OUTCOME_OPEN;
}

static enum outcome take_head(struct request *r)
{
    const struct http_answer *a = &r->conn->answer;
    const char *node = strcasestr(a->head, "\r\nx-drover-node:");

    r->status = a->status;
    if (node && sscanf(node + 16, " %63[^\r\n]", r->node) != 1)
        r->node[0] = '\0';
    return r->status == 200 ? OUTCOME_OPEN : r->status < 100 ? OUTCOME_CUT : OUTCOME_STATUS;
}

/* Takes the bytes of one read() apart. */
static enum outcome feed(const struct run *run, struct request *r, const char *p, size_t n)
{
    enum outcome outcome = OUTCOME_OPEN;
    const char *body;
    size_t body_len;

    while (outcome == OUTCOME_OPEN) {
        switch (http_answer_next(&r->conn->answer, &p, &n, &body, &body_len)) {
        case HTTP_ANSWER_HEAD:
            outcome = take_head(r);
            break;
        case HTTP_ANSWER_BODY:
            outcome = take_body(run, r, body, body_len);
            break;
        case HTTP_ANSWER_END:
            return OUTCOME_CUT; /* without a [DONE] */
        case HTTP_ANSWER_MORE:
            return OUTCOME_OPEN;
        }
    }
    return outcome;
}

static void on_ready(struct run *run, struct request *r, uint32_t ready)
{
    static char buffer[READ_BYTES];

    if (!r->conn)
        return;
    if ((ready & EPOLLOUT) && !send_more(run, r))
        ready |= EPOLLERR;
    for (;;) {
        ssize_t n = read(r->conn->fd, buffer, sizeof(buffer));
        enum outcome outcome;

        if (n == -1 && errno == EAGAIN && !(ready & EPOLLERR))
            return;
        if (n <= 0) {
            end(run, r, r->conn->sent == 0 ? OUTCOME_CONNECT : OUTCOME_CUT);
            return;
        }
        outcome = feed(run, r, buffer, (size_t)n);
        if (outcome != OUTCOME_OPEN) {
            end(run, r, outcome);
            return;
        }
        if ((size_t)n < sizeof(buffer) && !(ready & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)))
            return;
    }
}

/* ---- the run --------------------------------------------------------------------------- */

static void play(struct run *run, uint64_t limit_us)
{
    struct epoll_event ready[EVENTS_BATCH];

    run->begun_mono_us = http_answer_now_us();
    while (run->over < run->count) {
        uint64_t now = http_answer_now_us() - run->begun_mono_us, wait_us;
        struct timespec wait;
        int n;

        while (run->sent < run->count && run->requests[run->sent].due_us <= now)
            start(run, &run->requests[run->sent++]);
        if (run->sent < run->count)
            wait_us = run->requests[run->sent].due_us - now;
        else if (now < run->requests[run->count - 1].due_us + limit_us)
            wait_us = run->requests[run->count - 1].due_us + limit_us - now;
        else
            break;
        wait = (struct timespec){.tv_sec = (time_t)(wait_us / 1000000u),
                                 .tv_nsec = (long)(wait_us % 1000000u) * 1000};
        if (run->over == run->count)
            break;
        n = epoll_pwait2(run->epoll_fd, ready, EVENTS_BATCH, &wait, NULL);
        if (n == -1 && errno != EINTR)
            die("epoll_pwait2");
        for (int i = 0; i < n; i++)
            on_ready(run, ready[i].data.ptr, ready[i].events);
    }
    for (size_t i = 0; i < run->count; i++)
        if (run->requests[i].conn)
            end(run, &run->requests[i], OUTCOME_TIMEOUT);
}

static void read_blocks(struct request *r, char *text)
{
    size_t cap = 0;

    if (strcmp(text, "-") == 0)
        return;
    for (char *word; (word = strsep(&text, ",")) != NULL;) {
        if (r->blocks_count == cap) {
            cap = cap ? cap * 2 : 16;
            r->blocks = realloc(r->blocks, cap * sizeof(r->blocks[0]));
            if (!r->blocks)
                die("memory");
        }
        r->blocks[r->blocks_count++] = strtoull(word, NULL, 10);
    }
}

static void read_schedule(struct run *run, const char *path)
{
    FILE *f = fopen(path, "r");
    char *line = NULL;
    size_t line_cap = 0;

    if (!f)
        die(path);
    while (getline(&line, &line_cap, f) != -1) {
        struct request r = {0};
        int at = 0;

        if (sscanf(line, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %23s %n", &r.due_us,
                   &r.prompt_tokens, &r.output_tokens, r.key, &at) != 4 ||
            at == 0 || line[at] == '\0' || r.prompt_tokens == 0 || r.output_tokens == 0 ||
            (run->count != 0 && r.due_us < run->requests[run->count - 1].due_us)) {
            fprintf(stderr, "routing_client: %s:%zu: not a request\n", path, run->count + 1);
            exit(2);
        }
        line[at + (int)strcspn(line + at, "\r\n")] = '\0';
        read_blocks(&r, line + at);
        if (run->count == run->cap) {
            run->cap = run->cap ? run->cap * 2 : 1024;
            run->requests = realloc(run->requests, run->cap * sizeof(run->requests[0]));
            if (!run->requests)
                die("memory");
        }
        run->requests[run->count++] = r;
    }
    free(line);
    fclose(f);
    if (run->count == 0) {
        fprintf(stderr, "routing_client: %s: no request\n", path);
        exit(2);
    }
}

static void write_results(const struct run *run)
{
    for (size_t i = 0; i < run->count; i++) {
        const struct request *r = &run->requests[i];

        printf("%s,%u,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64
               ",%" PRIu64 ",%" PRIu64 ",%s\n",
               outcome_name(r->outcome), r->status, r->late_us, r->first_us, r->last_us,
               r->end_us, r->events, r->prompt, r->cached, r->output, r->node);
    }
}

static struct sockaddr_in parse_address(const char *text)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    const char *colon = strrchr(text, ':');
    char host[64];

    if (colon && (size_t)(colon - text) < sizeof(host)) {
        memcpy(host, text, (size_t)(colon - text));
        host[colon - text] = '\0';
        a.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
        if (inet_pton(AF_INET, host, &a.sin_addr) == 1 && a.sin_port != 0)
            return a;
    }
    fprintf(stderr, "routing_client: '%s' is not IPV4:PORT\n", text);
    exit(2);
}

static void usage(void)
{
    fputs("usage: routing_client --to IP:PORT --schedule FILE --model M [--limit SECONDS]\n",
          stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"to", required_argument, NULL, 't'},
        {"schedule", required_argument, NULL, 's'},
        {"model", required_argument, NULL, 'm'},
        {"limit", required_argument, NULL, 'l'},
        {0},
    };
    struct run run = {0};
    const char *schedule = NULL;
    unsigned long limit_s = 60;
    struct rlimit files;

    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 't':
            run.to = parse_address(optarg);
            break;
        case 's':
            schedule = optarg;
            break;
        case 'm':
            run.model = optarg;
            break;
        case 'l':
            limit_s = strtoul(optarg, NULL, 10);
            break;
        default:
            usage();
        }
    }
    if (run.to.sin_port == 0 || !schedule || !run.model || optind != argc)
        usage();
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    read_schedule(&run, schedule);
    run.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (run.epoll_fd == -1)
        die("epoll_create1");
    play(&run, limit_s * 1000000u);
    write_results(&run);
    for (size_t i = 0; i < run.count; i++)
        free(run.requests[i].blocks);
    free(run.requests);
    close(run.epoll_fd);
    return 0;
}
