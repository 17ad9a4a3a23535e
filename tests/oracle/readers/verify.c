#include <math.h>
#include <stdio.h>
#include <string.h>
int main(void) { /* stdin: quantize_affine.float32.int8.tsv; id scale z qmin qmax - - - x q ... */
    char line[512], id[16], q[8]; unsigned s, x; int z, low, high, right = 0, wrong = 0;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%15[0-9a-f] %x %d %d %d %*s %*s %*s %x %7s", id, &s, &z, &low, &high, &x, q) != 7 || *q == '?' || *q == '!') continue;
        float fs, fx; memcpy(&fs, &s, 4); memcpy(&fx, &x, 4);
        float y = fminf(fmaxf(rintf(fx / fs) + z, low), high); char got[8];
        snprintf(got, sizeof got, "%02x", (unsigned)(int)y & 255);
        if (strcmp(got, q)) printf("%s: expected %s, got %s\n", id, q, got), wrong++; else right++;
    }
    return printf("%d right, %d wrong\n", right, wrong), wrong || !right;
}
