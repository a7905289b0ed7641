/* What the stub says, rendered once at start so that a reply is one or two send() calls.
 *
 * Shapes follow SGLang 0.5.23 as captured from a real prefill/decode pair. Content event i
 * carries the text " w%06d" (i), which lets the load generator check order and completeness.
 */
#ifndef ANSWERS_H
#define ANSWERS_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EVENTS 8192
#define ID "4045253c1ea64a908c3887c84014e314"

enum kind { CHAT, COMPLETIONS, GENERATE, N_KINDS };

struct stream_text {
    char *bytes;                     /* content events in chunked coding, back to back */
    unsigned offset[MAX_EVENTS + 1]; /* where event i starts */
    char tail[2048];                 /* finish event, [DONE] and the closing chunk */
    int tail_len;
};

static struct stream_text streams[N_KINDS];
static char whole[N_KINDS][1024]; /* complete non-streamed replies, head included */
static int whole_len[N_KINDS];
static char handing_off[1024]; /* a chat answer of vLLM's prefill, as its NIXL connector has it */
static int handing_off_len;

static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    "transfer-encoding: chunked\r\n\r\n";

static int reply(char *out, size_t cap, int status, const char *body) {
    return snprintf(out, cap,
                    "HTTP/1.1 %d %s\r\nserver: uvicorn\r\ncontent-length: %zu\r\n"
                    "content-type: application/json\r\n\r\n%s",
                    status, status == 200 ? "OK" : "Error", strlen(body), body);
}

static int chunk(char *out, size_t cap, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return snprintf(out, cap, "%x\r\n%s\r\n", n, text);
}

static int content_event(int kind, char *out, size_t cap, int i) {
    switch (kind) {
    case CHAT:
        return chunk(out, cap,
                     "data: {\"id\":\"" ID "\",\"object\":\"chat.completion.chunk\",\"created\":1795422862,"
                     "\"model\":\"stub\",\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":null,"
                     "\"content\":\" w%06d\"},\"logprobs\":null,\"finish_reason\":null,"
                     "\"matched_stop\":null}]}\n\n", i);
    case COMPLETIONS:
        return chunk(out, cap,
                     "data: {\"id\":\"" ID "\",\"object\":\"text_completion\",\"created\":1795422862,"
                     "\"model\":\"stub\",\"choices\":[{\"index\":0,\"text\":\" w%06d\",\"logprobs\":null,"
                     "\"finish_reason\":null,\"matched_stop\":null}],\"usage\":null}\n\n", i);
    default:
        return chunk(out, cap,
                     "data: {\"text\":\" w%06d\",\"output_ids\":[%d],\"meta_info\":{\"id\":\"" ID "\","
                     "\"finish_reason\":null,\"prompt_tokens\":300,\"weight_version\":\"default\","
                     "\"completion_tokens\":%d,\"cached_tokens\":4,\"dp_rank\":null}}\n\n", i, i, i + 1);
    }
}

static const char *const FINISH[N_KINDS] = {
    "data: {\"id\":\"" ID "\",\"object\":\"chat.completion.chunk\",\"created\":1795422862,\"model\":\"stub\","
    "\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":null},\"logprobs\":null,"
    "\"finish_reason\":\"length\",\"matched_stop\":null}]}\n\n",
    "data: {\"id\":\"" ID "\",\"object\":\"text_completion\",\"created\":1795422862,\"model\":\"stub\","
    "\"choices\":[{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\","
    "\"matched_stop\":null}],\"usage\":null}\n\n",
    "data: {\"text\":\"\",\"output_ids\":[2],\"meta_info\":{\"id\":\"" ID "\",\"finish_reason\":"
    "{\"type\":\"length\",\"length\":64},\"prompt_tokens\":300,\"weight_version\":\"default\","
    "\"completion_tokens\":64,\"cached_tokens\":4,\"dp_rank\":null}}\n\n",
};

static const char *const WHOLE[N_KINDS] = {
    "{\"id\":\"" ID "\",\"object\":\"chat.completion\",\"created\":1795422862,\"model\":\"stub\",\"choices\":"
    "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The capital of France is Paris.\","
    "\"reasoning_content\":null},\"logprobs\":null,\"finish_reason\":\"stop\",\"matched_stop\":2}],\"usage\":"
    "{\"prompt_tokens\":37,\"total_tokens\":45,\"completion_tokens\":8,\"prompt_tokens_details\":null,"
    "\"reasoning_tokens\":0,\"completion_tokens_details\":null},\"metadata\":{\"weight_version\":\"default\","
    "\"weight_versions\":[{\"version\":\"default\",\"start\":0,\"end\":8}]}}",
    "{\"id\":\"" ID "\",\"object\":\"text_completion\",\"created\":1795422863,\"model\":\"stub\",\"choices\":"
    "[{\"index\":0,\"text\":\" Paris.\",\"logprobs\":null,\"finish_reason\":\"length\",\"matched_stop\":null}],"
    "\"usage\":{\"prompt_tokens\":10,\"total_tokens\":22,\"completion_tokens\":12,\"prompt_tokens_details\":"
    "null,\"reasoning_tokens\":0},\"metadata\":{\"weight_version\":\"default\"}}",
    "{\"text\":\" Paris.\",\"output_ids\":[7042,30],\"meta_info\":{\"id\":\"" ID "\",\"finish_reason\":"
    "{\"type\":\"length\",\"length\":2},\"prompt_tokens\":5,\"weight_version\":\"default\",\"num_retractions\":0,"
    "\"reasoning_tokens\":0,\"completion_tokens\":2,\"cached_tokens\":4,\"dp_rank\":null}}",
};

static const char HANDOFF[] =
    ",\"kv_transfer_params\":{\"do_remote_prefill\":true,\"do_remote_decode\":false,\"remote_engine_id\":"
    "\"stub\",\"remote_block_ids\":[1,2,3,4],\"remote_host\":\"127.0.0.1\",\"remote_port\":5600,\"tp_size\":1}}";

static void render_answers(void) {
    for (int kind = 0; kind < N_KINDS; kind++) {
        struct stream_text *s = &streams[kind];
        size_t cap = (size_t)MAX_EVENTS * 400, at = 0;
        s->bytes = malloc(cap);
        for (int i = 0; i < MAX_EVENTS; i++) {
            s->offset[i] = (unsigned)at;
            at += (size_t)content_event(kind, s->bytes + at, cap - at, i);
        }
        s->offset[MAX_EVENTS] = (unsigned)at;
        int n = chunk(s->tail, sizeof s->tail, "%s", FINISH[kind]);
        n += chunk(s->tail + n, sizeof s->tail - (size_t)n, "data: [DONE]\n\n");
        s->tail_len = n + snprintf(s->tail + n, sizeof s->tail - (size_t)n, "0\r\n\r\n");
        whole_len[kind] = reply(whole[kind], sizeof whole[kind], 200, WHOLE[kind]);
    }
    char text[1024];
    snprintf(text, sizeof text, "%.*s%s", (int)strlen(WHOLE[CHAT]) - 1, WHOLE[CHAT], HANDOFF);
    handing_off_len = reply(handing_off, sizeof handing_off, 200, text);
}

#endif
