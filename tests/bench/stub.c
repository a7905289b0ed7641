/* A feather-light SGLang worker for benchmarks: one thread, epoll, HTTP/1.1 keep-alive.
 *
 *   stub --role prefill|decode --port N [--events 64] [--interval-us 0]
 *
 * Prints "ready PORT" once it listens (port 0 picks one). A generation body with "stream":true
 * (the last occurrence counts, as with a JSON parser) is answered by max_tokens events (--events
 * when the body has none; one event from a prefill worker, as SGLang does), one send() each,
 * interval-us apart; 0 writes one event per loop pass to every open stream. Everything else is
 * answered with one complete JSON document. There is no rendezvous: legs answer at once. Routers
 * that hand over as vLLM does may be in front, too: a prefill worker asked with kv_transfer_params
 * answers with some of its own.
 * GET /stub/stats counts what was seen; POST /stub/interval/US changes the spacing while idle.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "answers.h"
#include "info.h"
#include "loopback.h"

#define SMALL 4096u
#define LARGE 65536u
#define MAX_HEAD 65536u

struct conn {
    int fd, kind, event, n_events, streaming, closing, dead, queued, hands_off;
    char target[64], *in, *out;
    size_t in_len, in_cap, need, body, out_len, out_at;
    uint64_t due_ns;
    struct conn *next, *prev;
};

static struct conn queue = {.next = &queue, .prev = &queue}; /* open streams, next due first */
static int epoll_fd, timer_fd, prefill, default_events = 64, n_queued, port;
static uint64_t interval_ns;
static struct seen seen;
static struct conn *graves; /* dropped in this pass */

static void enqueue(struct conn *c, uint64_t due_ns) {
    c->due_ns = due_ns;
    c->next = &queue, c->prev = queue.prev;
    queue.prev->next = c, queue.prev = c;
    c->queued = 1, n_queued++;
}

static void dequeue(struct conn *c) {
    if (!c->queued) return;
    c->prev->next = c->next, c->next->prev = c->prev;
    c->queued = 0, n_queued--;
}

static void watch(struct conn *c, int op, int want_out) {
    struct epoll_event e = {.events = EPOLLIN | (want_out ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, op, c->fd, &e);
}

static void drop(struct conn *c) { /* freed by the loop: this pass may still hold events of it */
    if (c->dead) return;
    seen.n_cut += (unsigned long)c->streaming, seen.n_connections--;
    dequeue(c);
    close(c->fd);
    c->dead = 1;
    c->next = graves, graves = c;
}

static void put(struct conn *c, const char *p, size_t n, int flags) {
    if (c->dead) return;
    if (!c->out_len) {
        ssize_t k = send(c->fd, p, n, MSG_NOSIGNAL | flags);
        if (k < 0 && errno != EAGAIN) { drop(c); return; }
        if (k > 0) p += k, n -= (size_t)k;
        if (!n) return;
        watch(c, EPOLL_CTL_MOD, 1);
    }
    c->out = realloc(c->out, c->out_len + n);
    memcpy(c->out + c->out_len, p, n);
    c->out_len += n;
}

static void put_json(struct conn *c, int status, const char *body) {
    char text[4096];
    put(c, text, (size_t)reply(text, sizeof text, status, body), 0);
}

static void emit(struct conn *c, uint64_t due_ns) {
    struct stream_text *s = &streams[c->kind];
    if (c->event < c->n_events - 1) {
        unsigned at = s->offset[c->event], end = s->offset[c->event + 1];
        c->event++;
        put(c, s->bytes + at, end - at, 0);
        if (!c->dead && !c->out_len) enqueue(c, due_ns); /* else flushing takes it up again */
    } else {
        c->streaming = 0;
        put(c, s->tail, (size_t)s->tail_len, 0);
    }
}

/* The last value of each key; keys inside JSON strings have escaped quotes and never match. */
static void peek(struct conn *c, const char *body, size_t n) {
    int stream = -1, room = 0, handoff = 0, tokens = -1;
    for (const char *q; n && (stream < 0 || tokens < 0 || !(room || handoff)); n = (size_t)(q - body)) {
        if (!(q = memrchr(body, '"', n))) break;
        size_t rest = c->in_len - (size_t)(q - c->in);
        if (stream < 0 && rest > 12 && !memcmp(q, "\"stream\":", 9))
            stream = q[9] == 't' || (q[9] == ' ' && q[10] == 't');
        else if (!room && rest > 17 && !memcmp(q, "\"bootstrap_room\":", 17))
            room = 1;
        else if (!handoff && rest > 21 && !memcmp(q, "\"kv_transfer_params\":", 21))
            handoff = 1;
        else if (tokens < 0 && rest > 13 && !memcmp(q, "\"max_tokens\":", 13))
            tokens = atoi(q + 13);
        else if (tokens < 0 && rest > 17 && !memcmp(q, "\"max_new_tokens\":", 17))
            tokens = atoi(q + 17);
    }
    seen.n_rooms += (unsigned long)room, seen.n_handoffs += (unsigned long)handoff;
    c->hands_off = handoff && prefill;
    c->streaming = stream == 1;
    c->n_events = prefill ? 1 : tokens > 0 ? tokens : default_events;
    if (c->n_events > MAX_EVENTS) c->n_events = MAX_EVENTS;
}

static void generate(struct conn *c, int kind) {
    c->kind = kind, c->event = 0, seen.n_requests++;
    peek(c, c->in + c->body, c->need - c->body);
    if (c->hands_off) { c->streaming = 0, put(c, handing_off, (size_t)handing_off_len, 0); return; }
    if (!c->streaming) { put(c, whole[kind], (size_t)whole_len[kind], 0); return; }
    seen.n_streamed++;
    put(c, STREAM_HEAD, sizeof STREAM_HEAD - 1, MSG_MORE);
    if (!c->dead) emit(c, now_ns() + interval_ns);
}

static void inform(struct conn *c) {
    char text[2048] = "";
    seen.n_open_streams = n_queued;
    if (!strcmp(c->target, "/abort_request")) seen.n_aborts++;
    if (!strncmp(c->target, "/stub/interval/", 15)) interval_ns = (uint64_t)atol(c->target + 15) * 1000u;
    put_json(c, info_text(text, c->target, prefill, port, &seen), text);
}

static int parse_head(struct conn *c) { /* 1: head known, 0: more bytes needed, -1: refused */
    char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4), *length;
    if (!end) return c->in_len > MAX_HEAD ? -1 : 0;
    end[2] = 0;
    c->body = (size_t)(end - c->in) + 4;
    length = strcasestr(c->in, "\r\ncontent-length:");
    if (strcasestr(c->in, "\r\ntransfer-encoding:")) return -1;
    c->need = c->body + (length ? (size_t)atoll(length + 17) : 0);
    c->closing = strcasestr(c->in, "\r\nconnection: close") != NULL;
    if (sscanf(c->in, "%*s %63[^ ?]", c->target) != 1) return -1;
    return 1;
}

static void serve(struct conn *c) { /* answers every complete request that has arrived */
    static const char *const ROUTES[N_KINDS] = {"/v1/chat/completions", "/v1/completions", "/generate"};
    while (!c->dead && !c->streaming && c->in_len) {
        int known = c->need ? 1 : parse_head(c), kind = 0;
        if (known < 0) put_json(c, 400, "{\"detail\":\"bad head\"}"), drop(c);
        if (known <= 0 || c->in_len < c->need) return;
        while (kind < N_KINDS && strcmp(c->target, ROUTES[kind])) kind++;
        if (kind < N_KINDS) generate(c, kind);
        else inform(c);
        c->in_len -= c->need;
        memmove(c->in, c->in + c->need, c->in_len);
        c->need = 0;
        if (c->in_cap > LARGE && c->in_len < SMALL) c->in = realloc(c->in, c->in_cap = SMALL);
        if (c->closing && !c->streaming && !c->out_len) drop(c);
    }
}

static void readable(struct conn *c) {
    for (;;) {
        size_t want = c->need > c->in_len ? c->need : c->in_len + SMALL / 2;
        if (want + 1 > c->in_cap) c->in = realloc(c->in, c->in_cap = want + SMALL);
        size_t room = c->in_cap - c->in_len - 1;
        ssize_t n = recv(c->fd, c->in + c->in_len, room, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) { drop(c); return; }
        c->in_len += (size_t)n;
        serve(c);
        if (c->dead || (size_t)n < room) return;
    }
}

static void flush(struct conn *c) {
    ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
    if (n < 0) { if (errno != EAGAIN) drop(c); return; }
    if ((c->out_at += (size_t)n) < c->out_len) return;
    c->out_len = c->out_at = 0;
    watch(c, EPOLL_CTL_MOD, 0);
    if (c->streaming) enqueue(c, now_ns() + interval_ns);
    else if (c->closing) drop(c);
    else serve(c);
}

static void take(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        send_at_once(fd);
        struct conn *c = calloc(1, sizeof *c);
        c->fd = fd, c->in = malloc(c->in_cap = SMALL), seen.n_connections++;
        watch(c, EPOLL_CTL_ADD, 0);
    }
}

static void emit_due(void) {
    uint64_t now = now_ns();
    for (int left = n_queued; left > 0 && queue.next->due_ns <= now; left--) {
        struct conn *c = queue.next;
        dequeue(c);
        emit(c, c->due_ns + interval_ns);
        if (!c->streaming && c->closing && !c->out_len) drop(c);
        else if (!c->streaming) serve(c);
    }
    if (interval_ns && n_queued) {
        uint64_t due = queue.next->due_ns;
        struct itimerspec at = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
        timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--role")) prefill = !strcmp(argv[i + 1], "prefill");
        else if (!strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--events")) default_events = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--interval-us")) interval_ns = (uint64_t)atol(argv[i + 1]) * 1000u;
        else { fprintf(stderr, "stub: unknown flag %s\n", argv[i]); return 2; }
    }
    raise_file_limit();
    render_answers();
    int listener = listen_on(&port);
    epoll_fd = epoll_create1(0), timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    static struct conn listening, ticking; /* only their addresses matter */
    listening.fd = listener, ticking.fd = timer_fd;
    watch(&listening, EPOLL_CTL_ADD, 0), watch(&ticking, EPOLL_CTL_ADD, 0);
    printf("ready %d\n", port), fflush(stdout);
    for (;;) {
        struct epoll_event got[512];
        int n = epoll_wait(epoll_fd, got, 512, !interval_ns && n_queued ? 0 : -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = got[i].data.ptr;
            uint64_t ticks;
            if (c == &listening) take(listener);
            else if (c == &ticking) { if (read(timer_fd, &ticks, sizeof ticks) < 0) continue; }
            else {
                if (!c->dead && c->out_len && got[i].events & EPOLLOUT) flush(c);
                if (!c->dead && got[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) readable(c);
            }
        }
        emit_due();
        for (struct conn *c; (c = graves);) graves = c->next, free(c->in), free(c->out), free(c);
    }
}
