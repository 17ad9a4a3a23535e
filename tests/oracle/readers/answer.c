#include <math.h>
#include <stdio.h>
#include <string.h>
int main(void) { /* refquant oracle gen quantize_affine | ./answer | refquant oracle verify */
    char line[512], id[16]; unsigned s, x; int z, low, high;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%15[0-9a-f] %x %d %d %d %*s %*s %*s %x", id, &s, &z, &low, &high, &x) != 6) continue;
        float fs, fx; memcpy(&fs, &s, 4); memcpy(&fx, &x, 4);
        if (!(fs > 0) || isinf(fs) || z < low || z > high) { printf("%s !\n", id); continue; }
        int q = isnan(fx) ? 0 : (int)fminf(fmaxf(rintf(fx / fs) + z, low), high);
        printf("%s %02x\n", id, q & 255);
    }
}
