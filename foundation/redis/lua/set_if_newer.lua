#!lua flags=allow-cross-slot-keys
-- Store versioned records unless a newer one is there. Items: key, record, ttl in seconds; 1 if stored, else 0.
-- A record is: layout byte, 3 bytes, then its version as 8 bytes, little endian, not negative. Bytes are compared from
-- the greatest place down: Lua numbers are doubles and would call neighbours equal.
local first = tonumber(ARGV[1]) + 2
local answer = {}
for place = first, #ARGV, 3 do
  local key, record, ttl = ARGV[place], ARGV[place + 1], ARGV[place + 2]
  local stored = redis.pcall('GET', key)
  local keep = false
  if type(stored) == 'table' then
    answer[#answer + 1] = stored
  else
    if stored and #stored >= 12 and string.byte(stored, 1) == string.byte(record, 1) then
      for at = 12, 5, -1 do
        local old, new = string.byte(stored, at), string.byte(record, at)
        if old ~= new then
          keep = old > new
          break
        end
      end
    end
    if keep then
      answer[#answer + 1] = 0
    else
      local set = redis.pcall('SET', key, record, 'EX', ttl)
      answer[#answer + 1] = set.err and set or 1
    end
  end
end
return answer
